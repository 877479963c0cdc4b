"""Stages of a run: the inputs that shape each one, and the state of its output on disk.

Imports no ML library, so that a cached run costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from phi_runtime.config.pass_graph import (
    INPUT_ADAPTER,
    adapters_of,
    compared_models,
    is_trained_further,
    trained_rounding,
)
from phi_runtime.config.schema import FinetunePass, Workflow, canonical
from phi_runtime.config.schema.export import Int4Rounding
from phi_runtime.config.stage_names import EVALUATE, evaluation_stages
from phi_runtime.core.artifacts import Manifest, digest, is_deleted, read_manifest, read_object, versions, write_json
from phi_runtime.core.project import ProjectFolder
from phi_runtime.data.fingerprint import fingerprint
from phi_runtime.data.hooks import IN_TRAINING, hooks_key
from phi_runtime.models.reference import ModelRef
from phi_runtime.pipeline.changes import describe_changes, input_origins
from phi_runtime.pipeline.chosen_on import chosen_on
from phi_runtime.pipeline.seed_runs import seed_evaluations

State = Literal["cached", "deleted", "stale", "failed", "missing", "running"]
"""`deleted`: the output is gone, but all that was built from it is up to date. Otherwise it is `missing`."""

MODEL_FOLDERS = {"adapter": "adapter", "hf": "merged", "onnx": "onnx"}
EVALUATION_FOLDER = "evaluation"
EVALUATION_LIBRARIES = ("torch", "transformers", "peft", "tokenizers", "onnxruntime-genai", "onnxruntime-genai-cuda")
_EVALUATION_FORM = 6  # of evaluation.json; a result of another form is stale
# Inputs of an evaluation after whose change no row is measured again:
_NOT_MEASURED = ("own_metrics", "chosen_on", "seeds")
_NO_INPUT = "its input does not exist yet"


@dataclass(frozen=True)
class Stage:
    """One step of a run.

    Attributes:
        inputs: Everything that shapes the output. Empty, like `key`, while a stage before it has
            not run and its input is therefore unknown.
        key: Digest of `inputs`.
        after: The stages whose output goes into this one.
        deleted: Digest of the content of an output that is no longer on disk and would be built with the same key.
        origins: Computes the digests behind `inputs` that tell what changed (see `input_origins`).
    """

    name: str
    type: str
    target: Path
    state: State
    why: str = ""
    key: str = ""
    inputs: dict[str, Any] = field(default_factory=dict)
    manifest: Manifest | None = None
    after: tuple[str, ...] = ()
    deleted: str = ""
    origins: Callable[[], dict[str, str]] = dict

    @property
    def measured_inputs(self) -> dict[str, Any]:
        """The inputs of an evaluation that shape its rows."""
        return _measured(self.inputs)

    @property
    def has_measured_rows(self) -> bool:
        """True for an evaluation whose rows are up to date, so that its metrics can be computed from them."""
        return self.manifest is not None and _measured(self.manifest.facts.get("inputs", {})) == self.measured_inputs

    def changes_since(self, facts: Mapping[str, Any]) -> str:
        """Describe what differs from the inputs in `facts`, of a manifest or a work folder."""
        previous = facts.get("origins", {})
        return describe_changes(facts.get("inputs", {}), self.inputs, previous, self.origins() if previous else {})


def _measured(inputs: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in inputs.items() if key not in _NOT_MEASURED}


def model_folder(workflow: Workflow, project: ProjectFolder, name: str) -> Path:
    """Return the folder for the output of the pass `name`: gen-model/adapter, merged or onnx.

    The name of the pass is added for all but the first pass that outputs this kind of model. An input adapter that is trained
    further is in gen-model/input_adapter.
    """
    if name == INPUT_ADAPTER and is_trained_further(workflow.passes):
        return project.gen_model / INPUT_ADAPTER
    kind = workflow.passes[name].produces
    others = (INPUT_ADAPTER,) if is_trained_further(workflow.passes) else ()
    first = next(n for n, p in workflow.passes.items() if p.produces == kind and n not in others)
    return project.gen_model / (MODEL_FOLDERS[kind] if first == name else f"{MODEL_FOLDERS[kind]}-{name}")


_ADDED = ("layers", "activation_cache_gb")
"""Keys of later versions, absent if they are null, so that older results stay valid."""


def pass_stage(
    workflow: Workflow,
    project: ProjectFolder,
    name: str,
    source: ModelRef | None,
    adapters: Mapping[str, ModelRef] | None = None,
) -> Stage:
    """Return the stage of the pass `name`.

    Args:
        source: The model that goes into the pass; None if it does not exist yet.
        adapters: Those of the pass's `adapters` that exist, by the pass that trained them.
    """
    step, target = workflow.passes[name], model_folder(workflow, project, name)
    adapters = adapters or {}
    if source is None or len(adapters) < len(adapters_of(workflow.passes, name)):
        return _stage(name, step.type, target, None)
    own = step.inputs(workflow)
    if own is None:
        return _stage(name, step.type, target, None)
    inputs: dict[str, Any] = {
        "type": step.type,
        "config": canonical(step),
        "input": source.key,
        "versions": versions(step.libraries),
        **own,
    }
    if source.kind == "adapter":
        inputs["base"] = source.full.key
    if adapters:
        inputs["adapters"] = {adapter: ref.key for adapter, ref in adapters.items()}
    if step.depends_on_provider:
        inputs["target"] = workflow.execution_provider
    if not isinstance(step, FinetunePass):
        return _stage(name, step.type, target, inputs)
    inputs["config"].pop("test_data_config", None)  # read by the comparison only
    for key in _ADDED:
        if inputs["config"].get(key) is None:
            inputs["config"].pop(key, None)
    inputs |= data_inputs(workflow, step.data_names, project)
    inputs["load"] = canonical(workflow.input_model.load_kwargs)
    if step.rounds_base and (rounding := trained_rounding(workflow.passes, name)) != Int4Rounding():
        inputs["rounding"] = asdict(rounding)
    if step.training_args.metric_for_best_model not in (None, "loss", "eval_loss"):  # measured on generated answers
        inputs["evaluation"] = canonical(workflow.evaluation.of(name))
    return _stage(name, step.type, target, inputs, partial(input_origins, workflow, step, project, source))


def data_inputs(workflow: Workflow, data_names: Sequence[str], project: ProjectFolder) -> dict[str, Any]:
    """Return what data configs add to the inputs of a stage that reads them."""
    hooks = hooks_key(project.config, IN_TRAINING)  # the key is absent without hooks, so that older results stay valid
    return {
        **({"hooks": hooks} if hooks else {}),
        "data_config": {n: canonical(workflow.data_config(n)) for n in sorted(data_names)},
        "data": fingerprint(workflow, data_names, project.config),
    }


def evaluation_folder(workflow: Workflow, project: ProjectFolder, training: str | None) -> Path:
    """Return the folder of the comparison of the models of `training`; None for a workflow that trains nothing."""
    is_first = training is None or evaluation_stages(workflow)[EVALUATE] == training
    return project.gen_model / (EVALUATION_FOLDER if is_first else f"{EVALUATION_FOLDER}-{training}")


def evaluation_stage(workflow: Workflow, project: ProjectFolder, name: str, models: Mapping[str, ModelRef]) -> Stage:
    """Return the stage `name`, which compares the models of one training; `models` are those that exist, by pass."""
    training = evaluation_stages(workflow)[name]
    target = evaluation_folder(workflow, project, training)
    compared = compared_models(workflow.passes, training) if training else []
    rows = workflow.passes[training].rows if training else None
    if training is None or rows is None or not all(model in models for model in compared):
        return _stage(name, "Evaluate", target, None)
    settings = workflow.evaluation.of(training)
    config = canonical(settings)
    del config["passes"]
    keys = {model: with_active_adapter(workflow, training, model, models[model]).key for model in compared}
    inputs = {
        "type": "Evaluate",
        "form": _EVALUATION_FORM,
        "config": config,
        "input": digest(keys),
        "versions": versions(EVALUATION_LIBRARIES),
        **data_inputs(workflow, rows.measured_names, project),
        "own_metrics": settings.own_metrics,
        "chosen_on": chosen_on(workflow, project, training),
    }
    others = seed_evaluations(project, training, _measured(inputs))
    inputs["seeds"] = {
        str(seed): manifest.key for seed, folder in others.items() if (manifest := read_manifest(folder))
    }
    return _stage(name, "Evaluate", target, inputs)


def with_active_adapter(workflow: Workflow, training: str, name: str, ref: ModelRef) -> ModelRef:
    """Return `ref`, the output of the pass `name`, as it is compared for the pass `training`.

    An ONNX model with the adapter of `training` next to its graph gets that adapter activated, and
    a key that does not change when other adapters are added.
    """
    if ref.kind != "onnx" or training not in adapters_of(workflow.passes, name):
        return ref
    manifest = read_manifest(ref.path)
    facts = manifest.facts if manifest else {}
    parts = [facts.get("graph"), facts.get("adapters", {}).get(training, {}).get("content")]
    return replace(ref, adapter=training, key=digest(parts) if all(parts) else ref.key)


def record_output(stage_target: Path, manifest: Manifest) -> None:
    """Record key and content of an artifact in its stage's target, so that the stages after it are valid if it is deleted."""
    if read_object(_record_file(stage_target)) != (record := {manifest.key: manifest.content}):
        file = _record_file(stage_target)
        file.parent.mkdir(exist_ok=True)
        write_json(file, record)


def _record_file(target: Path) -> Path:
    return target.parent / ".outputs" / f"{target.name}.json"


def _without_builds(inputs: object) -> object:
    """Return the inputs of a stage without the builds of its libraries: torch 2.13.0 of a job is 2.13.0+cpu elsewhere."""
    if not isinstance(inputs, dict) or not isinstance(inputs.get("versions"), dict):
        return inputs
    return {
        **inputs,
        "versions": {name: str(version).partition("+")[0] for name, version in inputs["versions"].items()},
    }


def _stage(
    name: str,
    type_: str,
    target: Path,
    inputs: dict[str, Any] | None,
    origins: Callable[[], dict[str, str]] = dict,
) -> Stage:
    """Return a stage with its state; `inputs` is None if they are not known yet."""
    manifest = read_manifest(target)
    if inputs is None:
        return Stage(name, type_, target, "stale" if manifest else "missing", _NO_INPUT, manifest=manifest)
    stage = Stage(name, type_, target, "missing", "", digest(inputs), inputs, manifest, origins=origins)
    if manifest is None:
        content = read_object(_record_file(target)).get(stage.key) if is_deleted(target) else None
        return replace(stage, deleted=content, why="deleted") if content else stage
    if manifest.key == stage.key or _without_builds(manifest.facts.get("inputs")) == _without_builds(inputs):
        return replace(stage, state="cached")
    return replace(stage, state="stale", why=stage.changes_since(manifest.facts))
