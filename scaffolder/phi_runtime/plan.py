"""Which stages a workflow has, and what the disk says of each. Loads no ML library: a cached run costs nothing."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from phi_runtime.artefacts import Manifest, digest, read_manifest, versions
from phi_runtime.data.dataset import fingerprint
from phi_runtime.data.fetch import hub_data
from phi_runtime.lock import is_held
from phi_runtime.models.fetch import present
from phi_runtime.models.place import base_model_path
from phi_runtime.models.reference import ModelRef
from phi_runtime.passes import module_of
from phi_runtime.project import Project
from phi_runtime.workflow.load import EVALUATE, FETCH
from phi_runtime.workflow.schema import FinetunePass, ModelBuilder, Pass, Workflow, canonical

State = Literal["cached", "stale", "failed", "missing", "running"]

FOLDERS = {"adapter": "adapter", "hf": "merged", "onnx": "onnx"}
EVALUATION_FOLDER = "evaluation"
EVALUATION_LIBRARIES = ("torch", "transformers", "peft", "tokenizers", "onnxruntime-genai", "onnxruntime-genai-cuda")
FAILED = "failed.json"
LOCK = ".run.lock"


@dataclass(frozen=True)
class Stage:
    """One step of a run. `inputs` is all that shapes its output; `key` is their digest; both are empty while a stage before it
    has not run, because its input is not known then."""

    name: str
    type: str
    target: Path
    state: State
    why: str = ""
    key: str = ""
    inputs: dict[str, Any] = field(default_factory=dict)
    manifest: Manifest | None = None


def plan(workflow: Workflow, project: Project) -> list[Stage]:
    """All stages in order, each with its state as it is now."""
    base_path = base_model_path(workflow.input_model, project)
    base = present(workflow.input_model, project)
    here = base and all(path.is_file() for path in hub_data(workflow, project.config))
    stages = [Stage(FETCH, "Fetch", base_path, "cached" if here else "missing")]
    ref, refs = base, {"base": base} if base else {}
    for name in workflow.passes:
        stage = pass_stage(workflow, project, name, ref)
        stages.append(stage)
        ref = produced(workflow.passes[name], stage, ref) if stage.state == "cached" else None
        if ref:
            refs[name] = ref
    complete = len(refs) == len(workflow.passes) + 1
    stages.append(evaluation_stage(workflow, project, refs if complete else None))
    return [_with_marks(stage, project) for stage in stages]


def folder_of(workflow: Workflow, project: Project, name: str) -> Path:
    """Where the pass `name` puts its model: gen-model/adapter, merged or onnx; a second of one kind gets its name added."""
    kind = workflow.passes[name].produces
    first = next(n for n, p in workflow.passes.items() if p.produces == kind)
    return project.gen_model / (FOLDERS[kind] if first == name else f"{FOLDERS[kind]}-{name}")


def pass_stage(workflow: Workflow, project: Project, name: str, source: ModelRef | None) -> Stage:
    """The stage of one pass, given the model that goes into it."""
    step, target = workflow.passes[name], folder_of(workflow, project, name)
    if source is None:
        return _stage(name, step.type, target, None, "its input is not there yet")
    inputs: dict[str, Any] = {
        "type": step.type,
        "config": canonical(step),
        "input": source.key,
        "versions": versions(module_of(step).LIBRARIES),
    }
    if isinstance(step, FinetunePass):
        inputs |= _data(workflow, step, project)
        inputs["load"] = canonical(workflow.input_model.load_kwargs)
    if isinstance(step, ModelBuilder):
        inputs["target"] = workflow.execution_provider
    return _stage(name, step.type, target, inputs)


def _data(workflow: Workflow, training: FinetunePass, project: Project) -> dict[str, Any]:
    return {
        "data_config": {n: canonical(workflow.data_config(n)) for n in sorted(training.data_names)},
        "data": fingerprint(workflow, training, project.config),
    }


def evaluation_stage(workflow: Workflow, project: Project, refs: dict[str, ModelRef] | None) -> Stage:
    """The stage that measures all models of the run."""
    target = project.gen_model / EVALUATION_FOLDER
    if refs is None or workflow.finetune is None:
        return _stage(EVALUATE, "Evaluate", target, None, "its input is not there yet")
    _, step = workflow.finetune
    inputs = {
        "type": "Evaluate",
        "config": canonical(workflow.evaluation),
        "input": digest({name: ref.key for name, ref in refs.items()}),
        "versions": versions(EVALUATION_LIBRARIES),
        **_data(workflow, step, project),
    }
    return _stage(EVALUATE, "Evaluate", target, inputs)


def produced(step: Pass, stage: Stage, source: ModelRef | None) -> ModelRef:
    """The model that a cached or finished stage stands for."""
    assert stage.manifest is not None
    base = source if step.accepts == "hf" or source is None else source.base
    trust = source.trust_remote_code if source else False
    return ModelRef(stage.target, step.produces, stage.manifest.content, base, trust)


def rung_name(workflow: Workflow, name: str) -> str:
    """What the quality ladder calls the model of a pass: base, adapter, merged, finetuned, onnx-int4, …"""
    if name == "base":
        return "base"
    step = workflow.passes[name]
    if isinstance(step, ModelBuilder):
        return f"onnx-{step.precision}"
    if step.accepts == "adapter":
        return "merged"
    return "adapter" if step.produces == "adapter" else "finetuned"


def _stage(name: str, type_: str, target: Path, inputs: dict[str, Any] | None, why: str = "") -> Stage:
    manifest = read_manifest(target)
    if inputs is None:
        return Stage(name, type_, target, "stale" if manifest else "missing", why, manifest=manifest)
    key = digest(inputs)
    if manifest is None:
        return Stage(name, type_, target, "missing", key=key, inputs=inputs)
    if manifest.key == key:
        return Stage(name, type_, target, "cached", key=key, inputs=inputs, manifest=manifest)
    return Stage(name, type_, target, "stale", changed(manifest.facts.get("inputs", {}), inputs), key, inputs, manifest)


def changed(before: dict[str, Any], now: dict[str, Any]) -> str:
    """In words, what of a stage's inputs is other than when it ran."""
    parts = [] if before.get("input") == now["input"] else ["the model before it changed"]
    if before.get("data", now.get("data")) != now.get("data"):
        parts.append("the data changed")
    for part in now.keys() - {"input", "data"}:
        parts += _differences(part, before.get(part, now[part]), now[part])
    return "; ".join(sorted(parts)) or "made by another version"


def _differences(name: str, before: Any, now: Any) -> list[str]:
    if isinstance(before, dict) and isinstance(now, dict):
        keys = [k for k in {**before, **now} if before.get(k) != now.get(k)]
        return [d for k in keys for d in _differences(k, before.get(k), now.get(k))]
    return [] if before == now else [f"{name}: {json.dumps(before)} → {json.dumps(now)}"]


def work_folder(project: Project, stage: Stage) -> Path:
    """Where a stage works until it is done; named by its key, so that only the same work goes on there."""
    return project.gen_model / ".work" / f"{stage.name}-{stage.key[:16]}"


def _with_marks(stage: Stage, project: Project) -> Stage:
    if stage.state not in ("missing", "stale") or not stage.key:
        return stage
    work = work_folder(project, stage)
    if work.is_dir() and is_held(project.gen_model / LOCK):
        return _replaced(stage, "running", "")
    if (work / FAILED).is_file():
        reason = json.loads((work / FAILED).read_text(encoding="utf-8")).get("message", "")
        return _replaced(stage, "failed", reason)
    if work.is_dir():
        return _replaced(stage, stage.state, "interrupted; `phi-scaffold run` goes on")
    return stage


def _replaced(stage: Stage, state: State, why: str) -> Stage:
    return Stage(stage.name, stage.type, stage.target, state, why, stage.key, stage.inputs, stage.manifest)
