"""Build or measure one candidate, in a separate process (see worker)."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

from phi_runtime.config.pass_graph import BASE
from phi_runtime.config.schema import Workflow
from phi_runtime.core.artifacts import read_manifest
from phi_runtime.core.events import Emit, Event
from phi_runtime.data.dataset import data_context
from phi_runtime.evaluation.comparison import evaluate
from phi_runtime.evaluation.metrics import main_result
from phi_runtime.evaluation.worker import ModelTask, work_apart
from phi_runtime.hardware.device import pick_device
from phi_runtime.inference.loading import context_length
from phi_runtime.models.load import quiet_libraries
from phi_runtime.models.reference import ModelRef
from phi_runtime.pipeline.artifact import make_stage
from phi_runtime.pipeline.graph import ModelGraph, existing_models
from phi_runtime.pipeline.load import load_workflow
from phi_runtime.search.optimize.task import ONNX, WORK, CandidateSettings, CandidateTask


def execute(settings: CandidateSettings, task: CandidateTask, emit: Emit) -> dict[str, Any]:
    """Execute `task` and return its result. Raises PhiError, and what the libraries raise."""
    job = _Job(settings, task, emit, load_workflow(settings.project.config, task.overrides))
    return {"build": _build, "measure": _measure, "source": _measure_source}[task.action](job)


@dataclass(frozen=True)
class _Job:
    settings: CandidateSettings
    task: CandidateTask
    emit: Emit
    workflow: Workflow

    @cached_property
    def graph(self) -> ModelGraph:
        project = self.settings.project
        return ModelGraph(self.workflow, project, existing_models(self.workflow, project))

    @property
    def source(self) -> ModelRef:
        """The full-precision model that the candidates are built from."""
        source = self.graph.source_of(self.settings.stage)
        assert source is not None
        return source


def _build(job: _Job) -> dict[str, Any]:
    """Build the model exactly as a run would, with the same key, but in the candidate's folder."""
    started = time.monotonic()
    node, folder = job.graph.node(job.settings.stage), job.task.folder
    graph = ModelGraph(job.workflow, replace(job.settings.project, output=folder))  # keeps the builder's log there
    work_dir = folder / WORK
    shutil.rmtree(work_dir, ignore_errors=True)
    context = graph.context(node, work_dir, job.emit, job.task.overrides)
    quiet_libraries()
    stage = replace(node.stage, target=folder / ONNX)
    make_stage(stage, node.config.produces, work_dir, lambda _: node.config.run(context))
    return {"wall_s": round(time.monotonic() - started, 2)}


def _measure(job: _Job) -> dict[str, Any]:
    assert job.task.model is not None
    manifest = read_manifest(job.task.model)
    assert manifest is not None
    base = job.source.base or job.source
    ref = ModelRef(job.task.model, "onnx", manifest.content, base, job.source.trust_remote_code)
    context_tokens = min(job.settings.tokens, context_length(ref))
    figures: dict[str, Any] = {"context_tokens": context_tokens}
    if job.settings.training is not None:
        return figures | _evaluate(job, ref, "cpu", context_tokens)
    task = ModelTask(job.task.name, ref, context_tokens=context_tokens)
    results = work_apart(task, job.task.folder / f"{task.name}.log", job.emit)
    return figures | _performance(asdict(results.performance))


def _measure_source(job: _Job) -> dict[str, Any]:
    figures = _evaluate(job, job.source, pick_device(job.workflow.host_device))
    figures.pop("peak_memory_mb", None)  # with a short context, which is not that of the candidates
    return figures


def _evaluate(job: _Job, ref: ModelRef, device: str, context_tokens: int = 0) -> dict[str, Any]:
    """Evaluate one model on the test rows; its answers are kept in the task's folder."""
    training, task = job.settings.training, job.task
    assert training is not None
    quiet_libraries()
    tokenizer_source = job.graph.source_of(training) or job.graph.models[BASE]
    place = data_context(job.settings.project, tokenizer_source, task.overrides)
    task.folder.mkdir(parents=True, exist_ok=True)

    def emit_warnings(event: Event) -> None:
        if event.event == "warning":
            job.emit(event)

    content = evaluate(
        job.workflow,
        training,
        [(task.name, ref)],
        place,
        task.folder,
        device,
        emit_warnings,
        task.name,
        context_tokens=context_tokens,
    )
    if not content["models"]:  # no rows
        return {"rows": 0, "metrics": {}, "metric": "perplexity", "score": None, "perplexity": None}
    [result] = content["models"]
    metric, score, _ = main_result(content["task"], result)
    return {
        "rows": content["rows"],
        "metrics": result["metrics"],
        "metric": metric,
        "score": score,
        "perplexity": result["perplexity"],
        **_performance(result),
    }


def _performance(result: Mapping[str, Any]) -> dict[str, Any]:
    """Return the figures of the speed and memory in `result`; a GPU's memory counts where the model is on one."""
    peak = result["gpu_memory_bytes"] or result["peak_rss_bytes"]
    speed = {name: result[name] for name in ("prefill_tokens_per_s", "decode_tokens_per_s")}
    return {"peak_memory_mb": round(peak / 1e6, 1), **speed}
