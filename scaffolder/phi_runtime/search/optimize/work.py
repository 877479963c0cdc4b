"""What is done with one candidate, in a process of its own: see worker."""

from __future__ import annotations

import gc
import shutil
import time
from dataclasses import dataclass, field, replace
from typing import Any

from phi_runtime.config.pass_graph import BASE, sources
from phi_runtime.config.schema import Workflow
from phi_runtime.context import PassContext
from phi_runtime.core.artifacts import put_in_place, read_manifest, seal
from phi_runtime.core.events import Emit, Event
from phi_runtime.data.dataset import data_place
from phi_runtime.evaluation.metrics import headline
from phi_runtime.hardware.process_memory import peak_of_process_bytes
from phi_runtime.models.load import quiet_libraries
from phi_runtime.models.reference import ModelRef
from phi_runtime.pipeline.load import load_workflow
from phi_runtime.pipeline.plan import plan
from phi_runtime.search.optimize.task import Setting, Task

ONNX = "onnx"
_ANY_TOKEN = 5


@dataclass
class _Job:
    """A task with what it needs to know."""

    setting: Setting
    task: Task
    emit: Emit
    workflow: Workflow = field(init=False)
    source: ModelRef = field(init=False)
    read_by: ModelRef = field(init=False)  # whose tokenizer the rows are read with

    def __post_init__(self) -> None:
        from phi_runtime.pipeline.session import made_models

        self.workflow = load_workflow(self.setting.project.config, self.task.overrides)
        models = made_models(self.workflow, self.setting.project)
        before = sources(self.workflow.passes)
        self.source = models[before[self.setting.stage] or BASE]
        training = self.setting.training
        self.read_by = models[(before[training] if training else None) or BASE]


def carry_out(setting: Setting, task: Task, emit: Emit) -> dict[str, Any]:
    """Does `task` and returns what came of it. Raises PhiError, and whatever the libraries raise."""
    job = _Job(setting, task, emit)
    return {"build": _build, "measure": _measure, "source": _measure_source}[task.do](job)


def _build(job: _Job) -> dict[str, Any]:
    """Makes the model as the engine would, with the key that a run would give it, only elsewhere."""
    setting, task = job.setting, job.task
    stage = next(s for s in plan(job.workflow, setting.project) if s.name == setting.stage)
    step = job.workflow.passes[setting.stage]
    work, target = task.folder / ".work", task.folder / ONNX
    shutil.rmtree(work, ignore_errors=True)
    out = work / "out"
    out.mkdir(parents=True)
    started = time.monotonic()
    context = PassContext(
        setting.stage,
        step,
        job.source,
        out,
        work,
        job.workflow,
        replace(setting.project, output=task.folder),  # where the builder's log is kept
        job.emit,
        task.overrides,
    )
    quiet_libraries()
    facts = step.run(context)
    known = {"inputs": stage.inputs, "origins": stage.origins()}
    seal(out, key=stage.key, kind=step.produces, facts={**facts, **known})
    put_in_place(out, target)
    shutil.rmtree(work, ignore_errors=True)
    return {"wall_s": round(time.monotonic() - started, 2)}


def _measure(job: _Job) -> dict[str, Any]:
    from phi_runtime.evaluation.comparison import SPEED_NEW_TOKENS, SPEED_PROMPT_TOKENS
    from phi_runtime.inference.by_kind import open_generator

    assert job.task.model is not None
    manifest = read_manifest(job.task.model)
    assert manifest is not None
    ref = ModelRef(
        job.task.model, "onnx", manifest.content, job.source.base or job.source, job.source.trust_remote_code
    )
    before = _taken_of_gpu(job)
    generator = open_generator(ref)
    # One prompt that fills the context: weights, key-value cache and activations are all there, and nothing else is loaded yet.
    tokens = min(job.setting.tokens, generator.context_length)
    generator.completion_loss([_ANY_TOKEN] * (tokens - 1), [_ANY_TOKEN])
    peak = peak_of_process_bytes() if before is None else _taken_of_gpu(job, before)
    memory = round(peak / 1e6, 1) if peak else None
    figures: dict[str, Any] = {"peak_memory_mb": memory, "context_tokens": tokens}
    if job.setting.training is None:
        speed = generator.speed(SPEED_PROMPT_TOKENS, SPEED_NEW_TOKENS)
        return figures | {
            "prefill_tokens_per_s": round(speed.prefill_tokens_per_s, 1),
            "decode_tokens_per_s": round(speed.decode_tokens_per_s, 1),
        }
    del generator
    gc.collect()
    return figures | _asked(job, ref, "cpu")


def _measure_source(job: _Job) -> dict[str, Any]:
    from phi_runtime.hardware.device import pick_device

    return _asked(job, job.source, pick_device(job.workflow.host_device))


def _asked(job: _Job, ref: ModelRef, device: str) -> dict[str, Any]:
    """The quality ladder of this model alone; its answers are kept in the folder."""
    from phi_runtime.evaluation.comparison import evaluate

    training = job.setting.training
    assert training is not None
    quiet_libraries()
    place = data_place(job.setting.project, job.read_by, job.task.overrides)
    job.task.folder.mkdir(parents=True, exist_ok=True)
    rungs = [(job.task.name, ref)]

    def emit(event: Event) -> None:
        if event.event == "warning":
            job.emit(event)

    content = evaluate(job.workflow, training, rungs, place, job.task.folder, device, emit, job.task.name)
    rung: dict[str, Any] = next(iter(content["rungs"]), {})
    metrics = rung.get("metrics") or {}
    metric = headline(content["task"])
    return {
        "rows": content["rows"],
        "metrics": metrics,
        "metric": metric if metrics else "perplexity",
        "score": metrics.get(metric, rung.get("perplexity")),
        "perplexity": rung.get("perplexity"),
        "prefill_tokens_per_s": rung.get("prefill_tokens_per_s"),
        "decode_tokens_per_s": rung.get("decode_tokens_per_s"),
    }


def _taken_of_gpu(job: _Job, before: int = 0) -> int | None:
    """Bytes that are taken of the GPU that the model runs on, less those that were `before`; None for a CPU."""
    from phi_runtime.hardware.machine import gpus

    cards = gpus() if job.workflow.execution_provider == "CUDAExecutionProvider" else ()
    return cards[0].memory_bytes - cards[0].free_bytes - before if cards else None
