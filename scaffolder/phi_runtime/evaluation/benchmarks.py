"""Benchmarks of lm-evaluation-harness (0.4.13, extra `benchmarks`) on any model of a project.

Each task is measured on a sample of its rows that is the same for all models. A metric that each row has gets the interval of all
other metrics; one of all rows together, such as a perplexity, that of the harness's standard error.
"""

from __future__ import annotations

import gc
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from phi_runtime.core.artifacts import digest, file_digest
from phi_runtime.core.errors import (
    DataError,
    Location,
    MissingDependency,
    NetworkError,
    PhiError,
    UsageError,
    first_line,
)
from phi_runtime.core.suggestions import did_you_mean
from phi_runtime.evaluation.intervals import Interval, Scores, Z, interval_of
from phi_runtime.models.reference import ModelRef

VERSION = "0.4.13"
_SEED = 0


@dataclass(frozen=True)
class Benchmark:
    """A loaded task of the harness.

    Attributes:
        name: Its name in the harness; one of a group has its own.
        task: The task.
        rows: Indices of the measured rows.
        total_rows: Rows of the task.
        key: Digest of everything that shapes a result on it.
    """

    name: str
    task: Any
    rows: list[int]
    total_rows: int
    key: str


@dataclass(frozen=True)
class BenchmarkResult:
    """One metric of a model on a task; `stderr` is that of the harness."""

    metric: str
    value: float
    interval: Interval | None
    stderr: float | None
    higher_is_better: bool | None


def load_benchmarks(requested: Sequence[str], max_rows: int) -> list[Benchmark]:
    """Load tasks with their data, each sampled to at most `max_rows` rows.

    Args:
        requested: Names of tasks or groups of the harness, or paths of task files (.yaml).
        max_rows: Maximum number of rows per task.

    Raises:
        MissingDependency: The harness is not installed.
        UsageError: No task has this name.
        NetworkError: The Hub cannot be reached for the data of a task.
        DataError: A task file is invalid, or its data cannot be read.
    """
    manager = _manager()
    benchmarks = []
    for name in requested:
        path = Path(name)
        is_file = path.suffix in (".yaml", ".yml")
        if is_file and not path.is_file():
            raise UsageError(
                f"there is no task file {path}", fix="pass the path of a .yaml file, or the name of a task"
            )
        if not is_file and name not in manager.all_tasks:
            near = did_you_mean(name, manager.all_tasks)
            raise UsageError(f"no benchmark is called `{name}`{near}", fix="list them with `lm-eval ls tasks`")
        with _errors_of(name, path if is_file else None):
            tasks = manager.load([str(path) if is_file else name])["tasks"]
            sources = file_digest(path) if is_file else ""
            benchmarks += [_benchmark(key, task, max_rows, sources) for key, task in tasks.items()]
    return benchmarks


def _benchmark(name: str, task: Any, max_rows: int, sources: str) -> Benchmark:
    rows_of_task = task.eval_docs  # a property, which processes all rows each time
    total = len(rows_of_task)
    chosen = np.random.default_rng(_SEED).permutation(total)[:max_rows]
    rows = sorted(int(index) for index in chosen)
    documents = [{key: str(value) for key, value in rows_of_task[index].items()} for index in rows]
    parts = [VERSION, name, str(task.VERSION), sources, task.config.num_fewshot, total, rows, documents]
    return Benchmark(name, task, rows, total, digest(parts))


def measure_benchmark(benchmark: Benchmark, model: Any, batch_size: int) -> list[BenchmarkResult]:
    """Return the metrics of a model of the harness (see `open_lm`) on a task."""
    from lm_eval import simple_evaluate

    name = benchmark.name
    with _errors_of(name, None):
        found = simple_evaluate(
            model,
            tasks=[benchmark.task],
            samples={name: benchmark.rows},
            batch_size=batch_size,
            bootstrap_iters=100,
            task_manager=_manager(),
        )
    assert found is not None
    better, samples = found["higher_is_better"].get(name, {}), found["samples"][name]
    results = []
    for key, value in found["results"][name].items():
        metric, _, kept = key.partition(",")
        if not kept or metric.endswith("_stderr") or not isinstance(value, int | float):
            continue
        stderr = found["results"][name].get(f"{metric}_stderr,{kept}")
        stderr = float(stderr) if isinstance(stderr, int | float) else None
        scores = [row[metric] for row in samples if row["filter"] == kept and isinstance(row.get(metric), int | float)]
        label = metric if kept == "none" else f"{metric} ({kept})"
        results.append(
            BenchmarkResult(label, float(value), _interval(float(value), scores, stderr), stderr, better.get(metric))
        )
    return results


def _interval(value: float, scores: Sequence[float], stderr: float | None) -> Interval | None:
    """Return the interval of the rows if `value` is their mean, else that of the standard error."""
    if scores and abs(sum(scores) / len(scores) - value) < 1e-9:
        return interval_of(Scores([float(score) for score in scores]), seed=_SEED)
    return Interval(value - Z * stderr, value + Z * stderr) if stderr else None


def open_lm(ref: ModelRef, device: str, batch_size: int) -> Any:
    """Load a model as one of the harness: base, adapter and merged by its class for transformers, ONNX by ours."""
    from phi_runtime.models.load import load_tokenizer

    if ref.kind == "onnx":
        from phi_runtime.evaluation.onnx_lm import OnnxLM
        from phi_runtime.inference.onnx import OnnxGenerator

        return OnnxLM(OnnxGenerator(ref.path, adapter=ref.adapter), load_tokenizer(ref))
    from lm_eval.models.huggingface import HFLM

    from phi_runtime.hardware.device import compute_dtype
    from phi_runtime.models.load import load_reference

    model = load_reference(ref, compute_dtype("bfloat16", device), device).eval()
    return HFLM(model, backend="causal", tokenizer=load_tokenizer(ref), batch_size=batch_size, device=device)


def as_entry(result: BenchmarkResult, benchmark: Benchmark, model: str) -> dict[str, Any]:
    """Return the entry of a result in benchmarks.json, documented in docs/json.md."""
    counts = {"rows": len(benchmark.rows), "total_rows": benchmark.total_rows}
    return {"task": benchmark.name, "model": model, **asdict(result), **counts}


def _manager() -> Any:
    """Return the tasks of the harness. Raises MissingDependency."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        import lm_eval
        from lm_eval.tasks import TaskManager
    except ImportError as e:
        raise MissingDependency(
            f"benchmarks need the package lm-eval ({e})", fix=f"run `python -m pip install lm-eval=={VERSION}` in .venv"
        ) from None
    logging.getLogger(lm_eval.__name__).setLevel(logging.ERROR)
    global _TASKS
    _TASKS = _TASKS or TaskManager()
    return _TASKS


_TASKS: Any = None  # reading the names of all tasks takes seconds
_NETWORK = {
    "ConnectError",
    "ConnectionError",
    "HfHubHTTPError",
    "LocalEntryNotFoundError",
    "OfflineModeIsEnabled",
    "TimeoutError",
    "TransportError",
}
"""Errors of `datasets`, `huggingface_hub`, `httpx` and `requests` while the Hub cannot be reached, by name."""


@contextmanager
def _errors_of(name: str, file: Path | None) -> Iterator[None]:
    """Turn what the harness and `datasets` raise for a task into errors of ours."""
    try:
        yield
    except (PhiError, MemoryError):
        raise
    except Exception as e:
        reason = first_line(e)
        if _is_offline(e):
            raise NetworkError(
                f"the data of the benchmark `{name}` is on the Hub, which cannot be reached: {reason}",
                fix="connect to it once, after which the data is cached, or pass a task file with local data",
            ) from e
        raise DataError(
            f"the benchmark `{name}` failed: {type(e).__name__}: {reason}",
            where=Location(file) if file else None,
            fix="check the task file and its data",
        ) from e
    finally:
        gc.collect()


def _is_offline(error: BaseException | None) -> bool:
    """Return True if an error, or what caused it, is one of the network."""
    while error is not None:
        if _NETWORK & {kind.__name__ for kind in type(error).__mro__}:
            return True
        error = error.__cause__ or error.__context__
    return False
