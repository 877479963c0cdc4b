"""Work on one model of a comparison in a worker process: its memory is measured apart from all others, and a crash ends nothing else.

The worker gets a ModelTask and sends ModelResults. It imports no more than the kind of the model needs: of an ONNX model
neither torch nor transformers.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from phi_runtime.core.events import Emit
from phi_runtime.core.wire import from_json, to_json
from phi_runtime.hardware.process_memory import peak_of_process_bytes
from phi_runtime.inference.generator import Generator, GeneratorOptions, TokenPair
from phi_runtime.inference.loading import open_generator
from phi_runtime.models.reference import ModelRef
from phi_runtime.workers.child import Parent
from phi_runtime.workers.process import Worker, python

SPEED_PROMPT_TOKENS, SPEED_NEW_TOKENS = 128, 32
_MEMORY_FIX = "free memory, or lower `batch_size` in evaluation.json"


@dataclass(frozen=True)
class ModelTask:
    """Everything that a comparison asks of one model, which is loaded once.

    Attributes:
        name: Name of the model in the comparison.
        ref, device, options: The model, as for `open_generator`.
        prompts: Prompts to answer greedily, in up to `max_new_tokens` each.
        pairs: Completions after their prompts, whose likelihood is measured.
        batch_size: Prompts or pairs that are computed at once.
    """

    name: str
    ref: ModelRef
    device: str = "cpu"
    options: GeneratorOptions = field(default_factory=GeneratorOptions)
    prompts: Sequence[str] = ()
    pairs: Sequence[TokenPair] = ()
    max_new_tokens: int = 1
    batch_size: int = 1


@dataclass(frozen=True)
class Performance:
    """Speed and memory of a model that answers one prompt at a time.

    Attributes:
        load_s: Seconds that loading took.
        peak_rss_bytes: Largest resident set of the process up to the end of the measurement of speed.
    """

    prefill_tokens_per_s: float
    decode_tokens_per_s: float
    load_s: float
    peak_rss_bytes: int


@dataclass(frozen=True)
class ModelResults:
    """The answers to the prompts, the losses of the pairs, and the performance of the model."""

    answers: list[str]
    losses: list[float]
    performance: Performance


def work_apart(task: ModelTask, log: Path, emit: Emit) -> ModelResults:
    """Run `work_on` in a worker process, which loads the model, and return its results.

    Args:
        task: The work.
        log: File for what the worker prints; removed unless the work fails.
        emit: Receives the events of the worker.

    Raises:
        PhiError: The model cannot be loaded, its process crashed, or memory ran out.
    """
    with Worker(python("phi_runtime.evaluation.worker"), _subject(task), log=log, memory_fix=_MEMORY_FIX) as worker:
        worker.send(to_json(task))
        results = from_json(ModelResults, worker.result(emit))
    log.unlink(missing_ok=True)
    return results


def load_and_work(task: ModelTask) -> ModelResults:
    """Load the model of `task` in this process and work on it."""
    started = time.perf_counter()
    generator = open_generator(task.ref, task.device, task.options)
    return work_on(generator, task, time.perf_counter() - started)


def work_on(generator: Generator, task: ModelTask, load_s: float) -> ModelResults:
    """Do everything that `task` asks of a loaded model: first its speed and memory, while nothing else has happened."""
    speed = measure_speed(generator)
    performance = Performance(**speed, load_s=load_s, peak_rss_bytes=peak_of_process_bytes())
    losses = generator.completion_losses(task.pairs, task.batch_size) if task.pairs else []
    answers = list(generator.answers(task.prompts, task.max_new_tokens, task.batch_size)) if task.prompts else []
    return ModelResults(answers, losses, performance)


def measure_speed(generator: Generator) -> dict[str, float]:
    """Return the tokens per second of reading a prompt and of writing an answer."""
    return asdict(generator.speed(SPEED_PROMPT_TOKENS, SPEED_NEW_TOKENS))


def _subject(task: ModelTask) -> str:
    return f"the model `{task.name}`"


def main() -> None:
    """Work on the task on stdin."""
    parent = Parent()
    task = from_json(ModelTask, parent.receive())

    def work() -> dict[str, Any]:
        results: dict[str, Any] = to_json(load_and_work(task))
        return results

    parent.reply(work, _subject(task), memory_fix=_MEMORY_FIX)


if __name__ == "__main__":
    main()
