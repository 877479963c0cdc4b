"""Benchmarks of the models of a project: those that are not in gen-model/benchmarks.json yet are measured."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phi_runtime.config.schema import Workflow
from phi_runtime.config.stage_names import EVALUATE, evaluation_stages
from phi_runtime.core.artifacts import read_json, write_json
from phi_runtime.core.errors import Interrupted
from phi_runtime.core.events import Emit, Event
from phi_runtime.core.locks import exclusive
from phi_runtime.core.project import ProjectFolder
from phi_runtime.models.reference import ModelRef
from phi_runtime.pipeline.graph import existing_models
from phi_runtime.pipeline.model_names import comparison_models
from phi_runtime.pipeline.stage import with_active_adapter

if TYPE_CHECKING:
    from phi_runtime.evaluation.benchmarks import Benchmark

FILE = "benchmarks.json"
_REQUIRED = {"task", "metric", "value", "interval", "rows", "total_rows"}  # keys of an entry

Stored = dict[str, dict[str, list[dict[str, Any]]]]
"""Entries of benchmarks.json by the key of the model, and that of the benchmark."""


def run_benchmarks(
    workflow: Workflow, project: ProjectFolder, stages: Sequence[str], benchmarks: Sequence[Benchmark], emit: Emit
) -> list[dict[str, Any]]:
    """Measure the compared models of evaluation `stages` on benchmarks, and return the results, documented in docs/json.md.

    Each result is written as soon as it is known, and is measured again only if the model, the task or its rows change.

    Args:
        benchmarks: Those of `load_benchmarks`.

    Raises:
        Interrupted: It was stopped; the next call measures what is missing.
        Conflict: A run of the task is active.
    """
    from phi_runtime.evaluation.benchmarks import as_entry, measure_benchmark, open_lm
    from phi_runtime.hardware.device import pick_device

    file, device = project.gen_model / FILE, pick_device(workflow.host_device)
    results: list[dict[str, Any]] = []
    with exclusive(project.run_lock):
        stored = _read(file)
        for training in filter(None, map(evaluation_stages(workflow).get, stages)):
            for name, ref in _compared(workflow, project, training):
                known = stored.setdefault(ref.key, {})
                missing = {benchmark.key: benchmark for benchmark in benchmarks if benchmark.key not in known}
                try:
                    model = open_lm(ref, device, workflow.evaluation.batch_size) if missing else None
                    for number, (key, benchmark) in enumerate(missing.items()):
                        data = {"done": number, "total": len(missing), "unit": "benchmarks"}
                        emit(Event("progress", EVALUATE, {**data, "message": f"{name}: {benchmark.name}"}))
                        found = measure_benchmark(benchmark, model, workflow.evaluation.batch_size)
                        known[key] = [as_entry(result, benchmark, name) for result in found]
                        write_json(file, {"results": stored})
                except KeyboardInterrupt:
                    raise Interrupted(
                        "the benchmarks were stopped", fix="the same command measures what is missing"
                    ) from None
                finally:
                    model = None
                    gc.collect()
                results += [
                    {"training": training, **entry, "model": name}
                    for benchmark in benchmarks
                    for entry in known[benchmark.key]
                ]
    return sorted(results, key=lambda entry: entry["task"])


def stored_benchmarks(workflow: Workflow, project: ProjectFolder, training: str) -> list[dict[str, Any]]:
    """Return the stored results of the current models of a training; of each task those on the most rows.

    A file that cannot be read has none.
    """
    stored, results = _read(project.gen_model / FILE), []
    for name, ref in _compared(workflow, project, training) if stored else ():
        best: dict[str, list[dict[str, Any]]] = {}
        for entries in stored.get(ref.key, {}).values():
            task, rows = entries[0]["task"], entries[0]["rows"]
            if task not in best or rows >= best[task][0]["rows"]:
                best[task] = entries
        results += [{**entry, "model": name} for entries in best.values() for entry in entries]
    return sorted(results, key=lambda entry: entry["task"])


def _read(file: Path) -> Stored:
    """Return the complete entries of benchmarks.json; none if it cannot be read."""
    try:
        return {
            model: {key: entries for key, entries in results.items() if entries and all(map(_is_complete, entries))}
            for model, results in read_json(file)["results"].items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _is_complete(entry: Mapping[str, Any]) -> bool:
    return entry.keys() >= _REQUIRED


def _compared(workflow: Workflow, project: ProjectFolder, training: str) -> Iterator[tuple[str, ModelRef]]:
    """Yield the models of a comparison that exist, by their names in it."""
    existing = existing_models(workflow, project)
    for name, step in comparison_models(workflow, training).items():
        if step in existing:
            yield name, with_active_adapter(workflow, training, step, existing[step])
