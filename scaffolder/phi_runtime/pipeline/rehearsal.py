"""Trial step: train a stage on its longest batch, to see whether it fits into memory and how long a run takes.

The step runs in a worker process, so that the system can kill it for its memory without ending this one, and so that what
is measured is the step alone. The worker gets a `RehearsalRequest`, and sends events and one result.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from phi_runtime.config.overrides import Overrides
from phi_runtime.config.pass_graph import INPUT_ADAPTER, sources
from phi_runtime.config.schema import TrainingArgs
from phi_runtime.context import PassContext
from phi_runtime.core.errors import Interrupted, PhiError
from phi_runtime.core.events import Emit
from phi_runtime.core.project import ProjectFolder
from phi_runtime.core.wire import from_json, to_json
from phi_runtime.hardware.process_memory import peak_and_total, reset_peak
from phi_runtime.models.fetch import present
from phi_runtime.models.reference import ModelRef
from phi_runtime.pipeline.load import load_workflow
from phi_runtime.training.pass_bases import LayeredAdapter
from phi_runtime.workers.child import Parent
from phi_runtime.workers.process import Worker, python

_STEPS = 2  # the first creates the optimizer's moments; the second is timed
_SAMPLED_BATCHES = 50  # from which the mean batch size is estimated


@dataclass(frozen=True)
class Rehearsal:
    """Measurements of one training step on the longest batch.

    Attributes:
        stage: The pass that was tried.
        dtype: The type that the forward pass computes in.
        batch: Shape (B, T) of the batch, padding included.
        peak_bytes: Peak memory of the device; None where it cannot be measured.
        step_s: Seconds of an optimizer step on that batch.
        steps: Optimizer steps of the whole stage.
        stage_s: Estimated seconds of the whole stage, without the evaluations in between.
    """

    stage: str
    dtype: str
    batch: tuple[int, int]
    peak_bytes: int | None
    step_s: float
    steps: int
    stage_s: float


@dataclass(frozen=True)
class RehearsalRequest:
    """The stage to rehearse, and a folder for what the step writes."""

    project: ProjectFolder
    stage: str
    overrides: Overrides
    folder: Path


def rehearse_apart(project: ProjectFolder, stage: str, overrides: Overrides | None, emit: Emit) -> Rehearsal:
    """Run `rehearse` in a worker process. The base model must have been fetched.

    Raises:
        OutOfResources: The step needs more memory than is available, or the system killed it.
        PhiError: Another error of the step; its log is in the system's folder for temporary files.
    """
    subject = f"a step of `{stage}`"
    with tempfile.TemporaryDirectory(prefix="phi-scaffold-") as folder:
        log = Path(folder).with_suffix(".log")
        request = RehearsalRequest(project, stage, overrides or Overrides(), Path(folder))
        try:
            with Worker(python("phi_runtime.pipeline.rehearsal"), subject, log=log) as worker:
                worker.send(to_json(request))
                measured: Rehearsal = from_json(Rehearsal, worker.result(emit))
        except (KeyboardInterrupt, Interrupted):
            log.unlink(missing_ok=True)  # the worker may not have started
            raise Interrupted(f"{subject} was stopped", fix="skip it with `run --dry-run --no-step`") from None
        except PhiError as e:
            if str(log) not in e.fix:
                log.unlink()
            raise
        log.unlink()
        return measured


def main() -> None:
    """Rehearse the stage of the request on stdin."""
    parent = Parent()
    request = from_json(RehearsalRequest, parent.receive())
    parent.reply(lambda: to_json(_rehearse_request(request, parent.emit)), f"a step of `{request.stage}`")


def _rehearse_request(request: RehearsalRequest, emit: Emit) -> Rehearsal:
    from phi_runtime.models.load import quiet_libraries

    quiet_libraries()
    project, stage, overrides = request.project, request.stage, request.overrides
    workflow = load_workflow(project.config, overrides)
    base = present(workflow.input_model, project)
    assert base is not None, "the base model is not fetched"

    def context(name: str, source: ModelRef, out: str) -> PassContext[Any]:
        step = workflow.passes[name]
        return PassContext(
            name, step, source, request.folder / out, request.folder / "work", workflow, project, emit, overrides
        )

    source = base
    if sources(workflow.passes)[stage] == INPUT_ADAPTER:
        adapter = context(INPUT_ADAPTER, base, "adapter")
        adapter.out.mkdir()
        adapter.config.run(adapter)
        source = ModelRef(adapter.out, "adapter", "", base, base.trust_remote_code)
    return rehearse(context(stage, source, "out"))


def rehearse(context: PassContext[Any]) -> Rehearsal:
    """Train two steps on the longest batch, with the trainer of a run, and discard the result.

    Writes temporary files into `context.out` and `context.work`, and tokens into the project's token cache.
    """
    import torch
    from torch.utils.data import SequentialSampler, Subset
    from transformers import TrainerCallback
    from transformers.trainer_callback import DefaultFlowCallback

    from phi_runtime.training.arguments import total_steps
    from phi_runtime.training.batches import first_batches
    from phi_runtime.training.finetune import computing, prepare

    settings: TrainingArgs = context.config.training_args
    context, micro_batches = _shortened(context)
    reset_peak()
    training = prepare(context)
    rows = training.data.training
    trainer: Any = training.trainer
    size = min(trainer.args.train_batch_size, len(rows))
    longest = (-rows.lengths).argsort(kind="stable")[:size]
    batches = first_batches(rows.lengths, size, settings.order_seed, _SAMPLED_BATCHES)
    tokens = [_shape(trainer.data_collator([rows[i] for i in batch])) for batch in batches]
    shape = _shape(trainer.data_collator([rows[int(i)] for i in longest]))

    class StepClock(TrainerCallback):
        started = wall_s = 0.0

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.started = time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            if trainer.args.device.type == "cuda":
                torch.cuda.synchronize()
            self.wall_s = time.perf_counter() - self.started

    clock = StepClock()
    for callback in list(trainer.callback_handler.callbacks):
        if not isinstance(callback, DefaultFlowCallback):
            trainer.remove_callback(callback)
    trainer.add_callback(clock)
    trainer.train_dataset = Subset(rows, longest.tolist() * _STEPS * micro_batches)
    trainer._get_train_sampler = SequentialSampler  # sorting by length would regroup the repeated rows
    with computing(context, training):
        trainer.train()

    steps = total_steps(settings, len(rows))
    step_s = clock.wall_s / micro_batches * settings.gradient_accumulation_steps
    mean_share = sum(a * b for a, b in tokens) / len(tokens) / (shape[0] * shape[1])
    peak, _ = peak_and_total(str(trainer.args.device))
    return Rehearsal(context.name, training.dtype, shape, peak, step_s, steps, step_s * mean_share * steps)


def _shortened(context: PassContext[Any]) -> tuple[PassContext[Any], int]:
    """Return a context that trains `_STEPS` steps and keeps nothing, without evaluation or trackers, and its batches per step.

    Two batches stand for any larger number: from the second on, the forward pass runs while gradients are in memory.
    """
    settings: TrainingArgs = context.config.training_args
    micro_batches = min(settings.gradient_accumulation_steps, 2)
    changes = {
        "max_steps": _STEPS,
        "gradient_accumulation_steps": micro_batches,
        "warmup_steps": 0,
        "eval_strategy": "no",
        "save_strategy": "no",
        "load_best_model_at_end": False,
        "report_to": "none",
    }
    short: dict[str, Any] = {"training_args": settings.model_copy(update=changes), "early_stopping_patience": None}
    if isinstance(context.config, LayeredAdapter):
        short["activation_cache_gb"] = 0
    return replace(context, config=context.config.model_copy(update=short)), micro_batches


def _shape(batch: dict[str, Any]) -> tuple[int, int]:
    lines, tokens = batch["input_ids"].shape
    return int(lines), int(tokens)


if __name__ == "__main__":
    main()
