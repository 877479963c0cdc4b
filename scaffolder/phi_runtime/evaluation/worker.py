"""Work on one model of a comparison in a worker process: its memory is measured apart from all others, and a crash ends nothing else.

The worker gets a ModelTask and sends ModelResults. It imports no more than the kind of the model needs: of an ONNX model
neither torch nor transformers.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

from phi_runtime.core.events import Emit
from phi_runtime.core.wire import from_json, to_json
from phi_runtime.hardware.machine import used_gpu_bytes
from phi_runtime.hardware.process_memory import mapped_bytes, peak_of_process_bytes
from phi_runtime.inference.generator import Generator, GeneratorOptions, PromptResult, PromptTask, Speed
from phi_runtime.inference.loading import open_generator, uses_gpu
from phi_runtime.models.reference import ModelRef
from phi_runtime.workers.child import Parent
from phi_runtime.workers.process import Worker, python

SPEED_PROMPT_TOKENS, SPEED_NEW_TOKENS = 64, 8
"""Tokens of the prompt and of each measured answer: seconds for a small model on two cores."""
_FEWEST_RUNS, _MOST_RUNS = 3, 5
_NARROW = 0.1  # range of a figure of speed, as a share of its median, that needs no more runs

_ANY_TOKEN = 5

Range = tuple[float, float]
MEMORY_FIX = "free memory, or lower `batch_size` in evaluation.json"


@dataclass(frozen=True)
class RowTask:
    """Work on one row.

    Attributes:
        prompt: Prompt to answer greedily; None: free text, which has no answer.
        ids: Tokens before the completions: those of the prompt.
        completions: Token sequences whose likelihood is measured.
        stop: Text that ends the answer.
    """

    prompt: str | None
    ids: list[int]
    completions: Sequence[list[int]]
    stop: str = ""


@dataclass(frozen=True)
class ModelTask:
    """All work of a comparison on one model, which is loaded once.

    Attributes:
        name: Name of the model in the comparison.
        ref, device, options: The model, as for `open_generator`.
        rows: Rows to work on, by the name of the model with these prompts in the comparison.
        max_new_tokens: Length limit of an answer.
        batch_size: Prompts that are computed at once.
        context_tokens: Context to measure the memory with; that of the measurement of speed is the least.
    """

    name: str
    ref: ModelRef
    device: str = "cpu"
    options: GeneratorOptions = field(default_factory=GeneratorOptions)
    rows: dict[str, Sequence[RowTask]] = field(default_factory=dict)
    max_new_tokens: int = 1
    batch_size: int = 1
    context_tokens: int = 0


@dataclass(frozen=True)
class Performance:
    """Speed and memory of a model that writes one answer at a time: the median of several answers, and their range.

    Attributes:
        time_to_first_token_s: Seconds for a prompt of `SPEED_PROMPT_TOKENS`.
        prefill_tokens_per_s: Speed of reading the prompt, up to the first token.
        decode_tokens_per_s: Speed of writing the answer after its first token.
        load_s: Seconds until the model can answer, with the import of its libraries.
        peak_rss_bytes: Peak memory of a process that only runs the model: its largest resident set.
        gpu_memory_bytes: GPU memory that the model takes; None on a CPU.
        memory_tokens: Context of both, prompt and answer together.
    """

    time_to_first_token_s: float
    time_to_first_token_s_range: Range
    prefill_tokens_per_s: float
    prefill_tokens_per_s_range: Range
    decode_tokens_per_s: float
    decode_tokens_per_s_range: Range
    load_s: float
    peak_rss_bytes: int
    gpu_memory_bytes: int | None
    memory_tokens: int


@dataclass(frozen=True)
class ModelResults:
    """The results of the rows, as in ModelTask, and the performance of the model."""

    rows: dict[str, list[PromptResult]]
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
    with Worker(python("phi_runtime.evaluation.worker"), subject_of(task), log=log, memory_fix=MEMORY_FIX) as worker:
        worker.send(to_json(task))
        results = from_json(ModelResults, worker.result(emit))
    log.unlink(missing_ok=True)
    return results


@dataclass(frozen=True)
class Libraries:
    """Libraries that the process had before it was copied.

    Attributes:
        import_s: Seconds that their import took.
        mapped_bytes: Memory of their files (see `mapped_bytes`).
    """

    import_s: float
    mapped_bytes: dict[str, int]

    def unused_bytes(self) -> int:
        """Return the bytes of their files that are not in the memory of this process, which is a copy."""
        own = mapped_bytes()
        return sum(max(0, count - own.get(file, 0)) for file, count in self.mapped_bytes.items())


def load_and_work(task: ModelTask, libraries: Libraries | None = None) -> ModelResults:
    """Load the model of `task` in this process and work on it; its figures include `libraries`, if it is a copy with these."""
    used_before = used_gpu_bytes()
    started = time.perf_counter()
    generator = open_generator(task.ref, task.device, task.options)
    load_s = time.perf_counter() - started + (libraries.import_s if libraries else 0)
    speed = measure_speed(generator)
    tokens = SPEED_PROMPT_TOKENS + SPEED_NEW_TOKENS
    if task.context_tokens > tokens:
        tokens = min(task.context_tokens, generator.context_length)
        generator.run_prompts([PromptTask([_ANY_TOKEN] * (tokens - 1), [[_ANY_TOKEN]])], 1)
    performance = Performance(
        **speed,
        load_s=load_s,
        peak_rss_bytes=peak_of_process_bytes() + (libraries.unused_bytes() if libraries else 0),
        gpu_memory_bytes=used_gpu_bytes() - used_before if uses_gpu(task.ref, task.device) else None,
        memory_tokens=tokens,
    )
    return ModelResults(work_on(generator, task), performance)


def work_on(generator: Generator, task: ModelTask) -> dict[str, list[PromptResult]]:
    """Return the results of the rows of `task` with a loaded model."""
    return {name: _work_on_rows(generator, rows, task) for name, rows in task.rows.items()}


def _work_on_rows(generator: Generator, rows: Sequence[RowTask], task: ModelTask) -> list[PromptResult]:
    """Return the results of the rows; a prompt is read once, unless the model has other tokens for it than the completions."""
    tasks: list[PromptTask] = []
    merged = []
    for row in rows:
        ids = row.ids if row.prompt is None else generator.encode(row.prompt)
        length = 0 if row.prompt is None else task.max_new_tokens
        stop = (row.stop,) if row.stop else ()
        merged.append(ids == row.ids)
        if ids == row.ids:
            tasks.append(PromptTask(ids, row.completions, length, stop))
        else:
            tasks += [PromptTask(row.ids, row.completions), PromptTask(ids, (), length, stop)]
    results = iter(generator.run_prompts(tasks, task.batch_size))
    found = []
    for is_merged in merged:
        result = next(results)
        found.append(result if is_merged else replace(next(results), logprobs=result.logprobs))
    return found


def measure_speed(generator: Generator) -> dict[str, Any]:
    """Return the median of each figure of speed in `Performance`, and its range, over several answers after a warm-up.

    Three answers are measured, and up to two more while the range of a figure exceeds 10 % of its median.
    """
    generator.speed(SPEED_PROMPT_TOKENS, 2)
    runs: list[Speed] = []
    figures: dict[str, list[float]] = {}
    while len(runs) < _FEWEST_RUNS or (len(runs) < _MOST_RUNS and not all(map(_is_narrow, figures.values()))):
        runs.append(generator.speed(SPEED_PROMPT_TOKENS, SPEED_NEW_TOKENS))
        figures = {
            "time_to_first_token_s": [run.time_to_first_token_s for run in runs],
            "prefill_tokens_per_s": [SPEED_PROMPT_TOKENS / run.time_to_first_token_s for run in runs],
            "decode_tokens_per_s": [run.decode_tokens_per_s for run in runs],
        }
    medians = {name: median(values) for name, values in figures.items()}
    return medians | {f"{name}_range": (min(values), max(values)) for name, values in figures.items()}


def _is_narrow(values: Sequence[float]) -> bool:
    return max(values) - min(values) <= _NARROW * median(values)


def subject_of(task: ModelTask) -> str:
    """Return the name of the work on a model in error messages."""
    return f"the model `{task.name}`"


def main() -> None:
    """Work on the task on stdin."""
    parent = Parent()
    task = from_json(ModelTask, parent.receive())
    parent.reply(lambda: to_json(load_and_work(task)), subject_of(task), memory_fix=MEMORY_FIX)


if __name__ == "__main__":
    main()
