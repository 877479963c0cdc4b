"""Benchmarks of the models of a project: those that are not in gen-model/benchmarks.json yet are measured."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from phi_runtime.config.schema import Workflow
from phi_runtime.config.stage_names import EVALUATE, evaluation_stages
from phi_runtime.core.artifacts import digest, read_json, write_json
from phi_runtime.core.errors import Interrupted
from phi_runtime.core.events import Emit, Event
from phi_runtime.core.project import ProjectFolder
from phi_runtime.pipeline.graph import existing_models
from phi_runtime.pipeline.model_names import comparison_models
from phi_runtime.pipeline.stage import with_active_adapter

if TYPE_CHECKING:
    from phi_runtime.evaluation.benchmarks import Benchmark

FILE = "benchmarks.json"


def run_benchmarks(
    workflow: Workflow, project: ProjectFolder, stages: Sequence[str], benchmarks: Sequence[Benchmark], emit: Emit
) -> list[dict[str, Any]]:
    """Measure the compared models of evaluation `stages` on benchmarks, and return the results, documented in docs/json.md.

    Each result is written as soon as it is known, and is measured again only if the model, the task or its rows change.

    Args:
        benchmarks: Those of `load_benchmarks`.

    Raises:
        Interrupted: It was stopped; the next call measures what is missing.
    """
    from phi_runtime.evaluation.benchmarks import as_entry, measure_benchmark, open_lm
    from phi_runtime.hardware.device import pick_device

    file, device, existing = (
        project.gen_model / FILE,
        pick_device(workflow.host_device),
        existing_models(workflow, project),
    )
    known: dict[str, list[dict[str, Any]]] = read_json(file)["results"] if file.is_file() else {}
    results: list[dict[str, Any]] = []
    for stage in stages:
        training = evaluation_stages(workflow)[stage]
        models = comparison_models(workflow, training) if training else {}
        for name, step in models.items():
            if training is None or step not in existing:
                continue
            ref = with_active_adapter(workflow, training, step, existing[step])
            keys = {digest([benchmark.key, ref.key]): benchmark for benchmark in benchmarks}
            missing = {key: benchmark for key, benchmark in keys.items() if key not in known}
            try:
                model = open_lm(ref, device, workflow.evaluation.batch_size) if missing else None
                for number, (key, benchmark) in enumerate(missing.items()):
                    data = {"done": number, "total": len(missing), "unit": "benchmarks"}
                    emit(Event("progress", EVALUATE, {**data, "message": f"{name}: {benchmark.name}"}))
                    found = measure_benchmark(benchmark, model, workflow.evaluation.batch_size)
                    known[key] = [as_entry(result, benchmark, name) for result in found]
                    write_json(file, {"results": known})
            except KeyboardInterrupt:
                raise Interrupted(
                    "the benchmarks were stopped", fix="the same command measures what is missing"
                ) from None
            finally:
                model = None
                gc.collect()
            results += [{"training": training, **entry, "model": name} for key in keys for entry in known[key]]
    return sorted(results, key=lambda entry: entry["task"])
