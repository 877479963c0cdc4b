"""Build or measure one candidate, in a separate process (see worker)."""

from __future__ import annotations

import gc
import shutil
import time
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from phi_runtime.config.pass_graph import BASE
from phi_runtime.config.schema import Workflow
from phi_runtime.core.artifacts import read_manifest
from phi_runtime.core.events import Emit, Event
from phi_runtime.data.dataset import data_context
from phi_runtime.evaluation.comparison import evaluate
from phi_runtime.evaluation.metrics import headline
from phi_runtime.evaluation.worker import measure_speed
from phi_runtime.hardware.device import pick_device
from phi_runtime.hardware.machine import gpus
from phi_runtime.hardware.process_memory import peak_of_process_bytes
from phi_runtime.inference.loading import open_generator
from phi_runtime.models.load import quiet_libraries
from phi_runtime.models.reference import ModelRef
from phi_runtime.pipeline.artifact import make_stage
from phi_runtime.pipeline.graph import ModelGraph, existing_models
from phi_runtime.pipeline.load import load_workflow
from phi_runtime.search.optimize.task import ONNX, CandidateSettings, CandidateTask

_ANY_TOKEN = 5


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
    work_dir = folder / ".work"
    shutil.rmtree(work_dir, ignore_errors=True)
    context = graph.context(node, work_dir, job.emit, job.task.overrides)
    quiet_libraries()
    stage = replace(node.stage, target=folder / ONNX)
    make_stage(stage, node.config.produces, work_dir, lambda _: node.config.run(context))
    shutil.rmtree(work_dir, ignore_errors=True)
    return {"wall_s": round(time.monotonic() - started, 2)}


def _measure(job: _Job) -> dict[str, Any]:
    assert job.task.model is not None
    manifest = read_manifest(job.task.model)
    assert manifest is not None
    base = job.source.base or job.source
    ref = ModelRef(job.task.model, "onnx", manifest.content, base, job.source.trust_remote_code)
    used_before = _gpu_bytes(job)
    generator = open_generator(ref)
    # A prompt that fills the context needs weights, key-value cache and activations; nothing else is loaded yet.
    tokens = min(job.settings.tokens, generator.context_length)
    generator.completion_losses([([_ANY_TOKEN] * (tokens - 1), [_ANY_TOKEN])], 1)
    peak = peak_of_process_bytes() if used_before is None else (_gpu_bytes(job) or 0) - used_before
    figures: dict[str, Any] = {"peak_memory_mb": round(peak / 1e6, 1) if peak else None, "context_tokens": tokens}
    if job.settings.training is None:
        return figures | measure_speed(generator)
    del generator
    gc.collect()
    return figures | _evaluate(job, ref, "cpu")


def _measure_source(job: _Job) -> dict[str, Any]:
    return _evaluate(job, job.source, pick_device(job.workflow.host_device))


def _evaluate(job: _Job, ref: ModelRef, device: str) -> dict[str, Any]:
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

    content = evaluate(job.workflow, training, [(task.name, ref)], place, task.folder, device, emit_warnings, task.name)
    result: dict[str, Any] = next(iter(content["models"]), {})
    metrics = result.get("metrics") or {}
    metric = headline(content["task"])
    return {
        "rows": content["rows"],
        "metrics": metrics,
        "metric": metric if metrics else "perplexity",
        "score": metrics.get(metric, result.get("perplexity")),
        "perplexity": result.get("perplexity"),
        "prefill_tokens_per_s": result.get("prefill_tokens_per_s"),
        "decode_tokens_per_s": result.get("decode_tokens_per_s"),
    }


def _gpu_bytes(job: _Job) -> int | None:
    """Return the memory in use on the GPU of the model, in bytes; None on a CPU."""
    cards = gpus() if job.workflow.execution_provider == "CUDAExecutionProvider" else ()
    return cards[0].memory_bytes - cards[0].free_bytes if cards else None
