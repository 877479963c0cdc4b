"""One real step of a training stage on its longest batch: whether it fits into memory, and how long a run will take.

The step is made in a process of its own. One that the system kills for its memory then takes nobody with it, what is measured
is the step's alone, and nothing of it is left.
"""

from __future__ import annotations

import multiprocessing
import tempfile
import time
import traceback
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phi_runtime.config.overrides import Overrides
from phi_runtime.config.schema import TrainingArgs
from phi_runtime.context import PassContext
from phi_runtime.core.errors import Interrupted, OutOfResources, PhiError, WorkFailed
from phi_runtime.core.events import Emit
from phi_runtime.core.project import Project
from phi_runtime.hardware.process_memory import peak_and_total, reset_peak
from phi_runtime.models.fetch import present
from phi_runtime.pipeline.load import load_workflow

if TYPE_CHECKING:
    import numpy as np

_STEPS = 2  # the optimizer's moments are there from the second on, which is the one that is timed
_LESS_MEMORY = "lower per_device_train_batch_size and raise gradient_accumulation_steps, or train with QLoRA"
_LOOKED_AT = 50  # batches by which the mean one is told


@dataclass(frozen=True)
class Rehearsal:
    """What a step on the longest batch took. `batch` is its shape: lines, and tokens in each, filler included; `peak_bytes` is None
    where it cannot be told. `steps` are those of the whole stage, `stage_s` is about how long they will take together, without
    the measurements of the held-out loss between them."""

    stage: str
    dtype: str
    batch: tuple[int, int]
    peak_bytes: int | None
    step_s: float
    steps: int
    stage_s: float


def rehearse_apart(project: Project, stage: str, overrides: Overrides | None, emit: Emit) -> Rehearsal:
    """Makes the step in another process. The base model has to be there.

    Raises what the step raises; OutOfResources also when the system ends that process, which it does where memory is short.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_apart, args=(theirs, project, stage, overrides or Overrides()), daemon=True)
    process.start()
    theirs.close()
    try:
        while True:
            said = ours.recv()
            if isinstance(said, Rehearsal):
                return said
            if isinstance(said, Exception):
                raise said
            emit(said)
    except EOFError:
        process.join()
        raise OutOfResources(
            f"the system ended the step of `{stage}` (exit code {process.exitcode}), as it does when memory runs out",
            fix=_LESS_MEMORY,
        ) from None
    except KeyboardInterrupt:
        raise Interrupted(f"the step of `{stage}` was stopped", fix="`run --dry-run --no-step` makes none") from None
    finally:
        process.kill()
        process.join()


def _apart(connection: Connection, project: Project, stage: str, overrides: Overrides) -> None:
    """What the other process does: it sends events, then a Rehearsal or an exception."""
    from phi_runtime.models.load import quiet_libraries

    try:
        quiet_libraries()
        workflow = load_workflow(project.config, overrides)
        source = present(workflow.input_model, project)
        assert source is not None, "the base model is not fetched"
        with tempfile.TemporaryDirectory(prefix="phi-scaffold-") as folder:
            out, work = Path(folder) / "out", Path(folder) / "work"
            step = workflow.passes[stage]
            connection.send(
                rehearse(PassContext(stage, step, source, out, work, workflow, project, connection.send, overrides))
            )
    except KeyboardInterrupt:
        return
    except BaseException as e:
        _send_failure(connection, stage, e)


def _send_failure(connection: Connection, stage: str, error: BaseException) -> None:
    """Sends what the step died of, as an error that a user can act on."""
    if isinstance(error, PhiError):
        connection.send(error)
    elif isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        connection.send(OutOfResources(f"a step of `{stage}` needs more memory than there is", fix=_LESS_MEMORY))
    else:
        lines = "".join(traceback.format_exception(error))
        connection.send(WorkFailed(f"a step of `{stage}` fails: {type(error).__name__}: {error}", fix=lines.strip()))


def rehearse(context: PassContext[Any]) -> Rehearsal:
    """Trains the longest batch twice, through the trainer that a run would have, and throws the result away.

    Writes into `context.out` and `context.work`, which nobody should need, and tokens into the project's cache of them.
    """
    import torch
    from peft.helpers import disable_input_dtype_casting
    from torch.utils.data import SequentialSampler
    from transformers import TrainerCallback
    from transformers.trainer_callback import DefaultFlowCallback

    from phi_runtime.training.arguments import total_steps
    from phi_runtime.training.batches import LengthGroupedSampler
    from phi_runtime.training.finetune import prepare

    given: TrainingArgs = context.config.training_args
    context, micro_batches = _shortened(context)
    reset_peak()
    training = prepare(context, context.config.load_trainable)
    rows = training.data.training
    trainer: Any = training.trainer
    size = min(trainer.args.train_batch_size, len(rows))
    longest = (-rows.lengths).argsort(kind="stable")[:size]
    batches = _first_batches(LengthGroupedSampler(rows.lengths.tolist(), size, given.order_seed), size)
    tokens = [_shape(trainer.data_collator([rows[i] for i in batch])) for batch in batches]
    shape = _shape(trainer.data_collator([rows[int(i)] for i in longest]))

    class Clock(TrainerCallback):
        started = wall_s = 0.0

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.started = time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            if trainer.args.device.type == "cuda":
                torch.cuda.synchronize()
            self.wall_s = time.perf_counter() - self.started

    clock = Clock()
    for callback in list(trainer.callback_handler.callbacks):
        if not isinstance(callback, DefaultFlowCallback):
            trainer.remove_callback(callback)
    trainer.add_callback(clock)
    trainer.train_dataset = _Again(rows, longest, _STEPS * micro_batches)
    trainer._get_train_sampler = SequentialSampler  # by length, rows of one kind would share a batch
    with disable_input_dtype_casting(trainer.model, active=training.dtype != "float32"):  # as finetune does
        trainer.train()

    steps = total_steps(given, len(rows))
    step_s = clock.wall_s / micro_batches * given.gradient_accumulation_steps
    mean_share = sum(a * b for a, b in tokens) / len(tokens) / (shape[0] * shape[1])
    peak, _ = peak_and_total(str(trainer.args.device))
    return Rehearsal(context.name, training.dtype, shape, peak, step_s, steps, step_s * mean_share * steps)


def _shortened(context: PassContext[Any]) -> tuple[PassContext[Any], int]:
    """The same for a few steps without measurements, checkpoints and trackers, and the batches in each of these steps: where a
    step has several, gradients are there in the forward pass."""
    given: TrainingArgs = context.config.training_args
    micro_batches = min(given.gradient_accumulation_steps, 2)
    changes = {
        "max_steps": _STEPS,
        "gradient_accumulation_steps": micro_batches,
        "warmup_steps": 0,
        "eval_strategy": "no",
        "save_strategy": "no",
        "load_best_model_at_end": False,
        "report_to": "none",
    }
    short = {"training_args": given.model_copy(update=changes), "early_stopping_patience": None}
    return replace(context, config=context.config.model_copy(update=short)), micro_batches


class _Again:
    """The `chosen` sequences, `times` over."""

    def __init__(self, sequences: Any, chosen: np.ndarray, times: int) -> None:
        self.sequences, self.chosen = sequences, [int(i) for i in chosen] * times

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, index: int) -> Any:
        return self.sequences[self.chosen[index]]


def _first_batches(order: Any, size: int) -> list[list[int]]:
    found = list(order)[: _LOOKED_AT * size]
    return [found[i : i + size] for i in range(0, len(found), size)]


def _shape(batch: dict[str, Any]) -> tuple[int, int]:
    lines, tokens = batch["input_ids"].shape
    return int(lines), int(tokens)
