"""Which stages a workflow has, and what the disk says of each. Loads no ML library: a cached run costs nothing."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from phi_runtime.config.pass_graph import BASE, adapters_of, ladder, sources
from phi_runtime.config.schema import ExportPass, FinetunePass, Pass, Workflow, canonical
from phi_runtime.config.stage_names import EVALUATE, FETCH, evaluation_stages
from phi_runtime.core.artifacts import Manifest, digest, read_manifest, versions
from phi_runtime.core.locks import is_held
from phi_runtime.core.project import Project
from phi_runtime.data.dataset import fingerprint
from phi_runtime.data.fetch import hub_data
from phi_runtime.data.hooks import training_key
from phi_runtime.models.fetch import present
from phi_runtime.models.place import base_model_path
from phi_runtime.models.reference import ModelRef
from phi_runtime.pipeline.changes import changed, origins
from phi_runtime.training.checkpoints import newest

State = Literal["cached", "stale", "failed", "missing", "running"]

FOLDERS = {"adapter": "adapter", "hf": "merged", "onnx": "onnx"}
EVALUATION_FOLDER = "evaluation"
EVALUATION_LIBRARIES = ("torch", "transformers", "peft", "tokenizers", "onnxruntime-genai", "onnxruntime-genai-cuda")
FAILED, INPUTS, CHECKPOINTS = "failed.json", "inputs.json", "checkpoints"  # in a stage's work folder
LOCK = ".run.lock"


@dataclass(frozen=True)
class Stage:
    """One step of a run. `inputs` is all that shapes its output; `key` is their digest; both are empty while a stage before it
    has not run, because its input is not known then. `after` are the stages whose
    output goes into it. `origins` finds what lies behind the inputs, for who asks what changed."""

    name: str
    type: str
    target: Path
    state: State
    why: str = ""
    key: str = ""
    inputs: dict[str, Any] = field(default_factory=dict)
    manifest: Manifest | None = None
    after: tuple[str, ...] = ()
    origins: Callable[[], dict[str, str]] = dict


def plan(workflow: Workflow, project: Project) -> list[Stage]:
    """All stages in order, each with its state as it is now."""
    base_path = base_model_path(workflow.input_model, project)
    base = present(workflow.input_model, project)
    here = base and all(path.is_file() for path in hub_data(workflow, project.config))
    stages = [Stage(FETCH, "Fetch", base_path, "cached" if here else "missing")]
    refs = {BASE: base} if base else {}
    for name, before in sources(workflow.passes).items():
        source = refs.get(before or "")
        stage = pass_stage(workflow, project, name, source, adapters_there(workflow, name, refs))
        after = (FETCH if before == BASE else before or "", *adapters_of(workflow.passes, name))
        stages.append(replace(stage, after=after))
        if stage.state == "cached":
            refs[name] = produced(workflow.passes[name], stage, source)
    for name, training in evaluation_stages(workflow).items():
        models = ladder(workflow.passes, training) if training else []
        stages.append(replace(evaluation_stage(workflow, project, name, refs), after=tuple(models)))
    return [_with_marks(stage, project) for stage in stages]


def folder_of(workflow: Workflow, project: Project, name: str) -> Path:
    """Where the pass `name` puts its model: gen-model/adapter, merged or onnx; a second of one kind gets its name added."""
    kind = workflow.passes[name].produces
    first = next(n for n, p in workflow.passes.items() if p.produces == kind)
    return project.gen_model / (FOLDERS[kind] if first == name else f"{FOLDERS[kind]}-{name}")


def adapters_there(workflow: Workflow, name: str, refs: Mapping[str, ModelRef]) -> dict[str, ModelRef]:
    """Of the adapters that the pass `name` takes beside its source, those that are among `refs`."""
    return {each: refs[each] for each in adapters_of(workflow.passes, name) if each in refs}


def pass_stage(
    workflow: Workflow,
    project: Project,
    name: str,
    source: ModelRef | None,
    adapters: Mapping[str, ModelRef] | None = None,
) -> Stage:
    """The stage of one pass, given the model that goes into it, and the adapters that it takes beside."""
    step, target = workflow.passes[name], folder_of(workflow, project, name)
    adapters = adapters or {}
    if source is None or len(adapters) < len(adapters_of(workflow.passes, name)):
        return _stage(name, step.type, target, None, "its input is not there yet")
    inputs: dict[str, Any] = {
        "type": step.type,
        "config": canonical(step),
        "input": source.key,
        "versions": versions(step.libraries),
    }
    if adapters:
        inputs["adapters"] = {each: ref.key for each, ref in adapters.items()}
    if step.depends_on_provider:
        inputs["target"] = workflow.execution_provider
    if not isinstance(step, FinetunePass):
        return _stage(name, step.type, target, inputs)
    inputs |= data_inputs(workflow, step, project)
    inputs["load"] = canonical(workflow.input_model.load_kwargs)
    if step.training_args.metric_for_best_model not in (None, "loss", "eval_loss"):  # answers say which state is kept
        inputs["evaluation"] = canonical(workflow.evaluation.of(name))
    return _stage(name, step.type, target, inputs, origins=partial(origins, workflow, step, project, source))


def data_inputs(workflow: Workflow, training: FinetunePass, project: Project) -> dict[str, Any]:
    """What the data of a pass that trains add to the inputs of a stage that reads them."""
    hooks = training_key(project.config)  # named where there are some: what was made without any stays as it is
    return {
        **({"hooks": hooks} if hooks else {}),
        "data_config": {n: canonical(workflow.data_config(n)) for n in sorted(training.data_names)},
        "data": fingerprint(workflow, training, project.config),
    }


def evaluation_stage(workflow: Workflow, project: Project, name: str, refs: Mapping[str, ModelRef]) -> Stage:
    """The stage that measures what one pass trained and what was made of that; `refs` are the models that are there, by pass."""
    training = evaluation_stages(workflow)[name]
    target = project.gen_model / (EVALUATION_FOLDER if name == EVALUATE else f"{EVALUATION_FOLDER}-{training}")
    rungs = ladder(workflow.passes, training) if training else []
    if training is None or not all(rung in refs for rung in rungs):
        return _stage(name, "Evaluate", target, None, "its input is not there yet")
    config = canonical(workflow.evaluation.of(training))
    del config["passes"]
    inputs = {
        "type": "Evaluate",
        "config": config,
        "input": digest({rung: on_ladder(workflow, training, rung, refs[rung]).key for rung in rungs}),
        "versions": versions(EVALUATION_LIBRARIES),
        **data_inputs(workflow, workflow.trainings[training], project),
    }
    return _stage(name, "Evaluate", target, inputs)


def produced(step: Pass, stage: Stage, source: ModelRef | None) -> ModelRef:
    """The model that a cached or finished stage stands for."""
    assert stage.manifest is not None
    base = source.base if source and source.kind == "adapter" else source
    trust = source.trust_remote_code if source else False
    return ModelRef(stage.target, step.produces, stage.manifest.content, base, trust)


def on_ladder(workflow: Workflow, training: str, name: str, ref: ModelRef) -> ModelRef:
    """`ref`, the model of the pass `name`, as it stands on the ladder of the pass `training`: an ONNX model that has the adapter of
    that beside it, with it active. Its key stays what it is when another adapter comes to lie there."""
    if ref.kind != "onnx" or training not in adapters_of(workflow.passes, name):
        return ref
    manifest = read_manifest(ref.path)
    facts = manifest.facts if manifest else {}
    parts = [facts.get("graph"), facts.get("adapters", {}).get(training, {}).get("content")]
    return replace(ref, adapter=training, key=digest(parts) if all(parts) else ref.key)


def rungs_of(workflow: Workflow, training: str) -> dict[str, str]:
    """The models of the ladder of the pass `training`, by what it calls them: base, adapter, merged, finetuned, onnx-int4, …; a
    second of one name gets that of its pass added."""
    found: dict[str, str] = {}
    for name in ladder(workflow.passes, training):
        rung = rung_name(workflow, name)
        found[f"{rung}-{name}" if rung in found else rung] = name
    return found


def rung_name(workflow: Workflow, name: str) -> str:
    """What the model of the pass `name` is: base, adapter, merged, finetuned, onnx-int4, …"""
    if name == BASE:
        return BASE
    step = workflow.passes[name]
    if isinstance(step, ExportPass):
        return f"onnx-{step.precision}"
    if step.accepts == "adapter":
        return "merged"
    return "adapter" if step.produces == "adapter" else "finetuned"


def _stage(
    name: str,
    type_: str,
    target: Path,
    inputs: dict[str, Any] | None,
    why: str = "",
    origins: Callable[[], dict[str, str]] = dict,
) -> Stage:
    manifest = read_manifest(target)
    if inputs is None:
        return Stage(name, type_, target, "stale" if manifest else "missing", why, manifest=manifest)
    stage = Stage(name, type_, target, "missing", "", digest(inputs), inputs, manifest, origins=origins)
    if manifest is None:
        return stage
    if manifest.key == stage.key:
        return replace(stage, state="cached")
    return replace(stage, state="stale", why=_changed(manifest.facts, stage))


def _changed(facts: Mapping[str, Any], stage: Stage) -> str:
    """In words, what is other now than when `facts` were written, in a manifest or in a work folder."""
    then = facts.get("origins", {})
    return changed(facts.get("inputs", {}), stage.inputs, then, stage.origins() if then else {})


def work_folder(project: Project, stage: Stage) -> Path:
    """Where a stage works until it is done; named by its key, so that only the same work goes on there."""
    return project.gen_model / ".work" / f"{stage.name}-{stage.key[:16]}"


def work_folders(project: Project, name: str) -> list[Path]:
    """All work folders of the stage `name`, whatever its inputs were, the latest first."""
    found = (project.gen_model / ".work").glob(f"{name}-{'[0-9a-f]' * 16}")
    return sorted(found, key=lambda folder: folder.stat().st_mtime_ns, reverse=True)


def left_behind(project: Project, stage: Stage) -> str | None:
    """Of a training that was interrupted, and whose inputs are others now so that it cannot go on: where it stopped and what
    changed, in words. None where there is none, or where this stage has work of its own to go on with."""
    own = work_folder(project, stage)
    if newest(own / CHECKPOINTS)[0]:
        return None
    for folder in work_folders(project, stage.name):
        checkpoint = newest(folder / CHECKPOINTS)[0]
        if folder != own and checkpoint:
            facts = json.loads((folder / INPUTS).read_text(encoding="utf-8")) if (folder / INPUTS).is_file() else {}
            step = checkpoint.name.rpartition("-")[2]
            return f"interrupted at step {step}, and cannot go on from there: {_changed(facts, stage)}"
    return None


def _with_marks(stage: Stage, project: Project) -> Stage:
    if stage.state not in ("missing", "stale") or not stage.key:
        return stage
    work = work_folder(project, stage)
    if work.is_dir() and is_held(project.gen_model / LOCK):
        return replace(stage, state="running", why="")
    if (work / FAILED).is_file():
        reason = json.loads((work / FAILED).read_text(encoding="utf-8")).get("message", "")
        return replace(stage, state="failed", why=reason)
    if left := left_behind(project, stage):
        return replace(stage, why=f"{left}; `phi-scaffold run` starts anew")
    if work.is_dir():
        return replace(stage, why="interrupted; `phi-scaffold run` goes on")
    return stage
