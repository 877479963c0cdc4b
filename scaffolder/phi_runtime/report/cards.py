"""Write the cards of a project's models: README.md in the folders of adapters, merged and ONNX models."""

from __future__ import annotations

from typing import Any

from phi_runtime.config.pass_graph import BASE, INPUT_ADAPTER, trainings_of
from phi_runtime.config.schema import Workflow
from phi_runtime.config.stage_names import evaluation_stages
from phi_runtime.core.artifacts import CARD, Manifest, read_manifest, read_object, write_text
from phi_runtime.core.project import ProjectFolder
from phi_runtime.core.signed_text import is_edited
from phi_runtime.evaluation.row_results import RESULTS
from phi_runtime.models.embedded import EMBEDDED
from phi_runtime.models.place import base_model_path, cached_name, hub_name
from phi_runtime.pipeline.model_names import comparison_models
from phi_runtime.pipeline.plan import plan
from phi_runtime.pipeline.stage import Stage
from phi_runtime.report.card import CardModel, ModelOrigin, model_card
from phi_runtime.report.facts import Facts, read_facts
from phi_runtime.report.history import RecordedRun, read_runs

_TEMPLATE = "prompt_template.json"


def write_cards(project: ProjectFolder, workflow: Workflow) -> list[str]:
    """Write the card of each model that is up to date, with its scores if those are, too.

    A card that the user edited, or that a pass wrote as part of its output, is kept.

    Returns:
        A message about each edited card.
    """
    stages = {stage.name: stage for stage in plan(workflow, project)}
    runs = read_runs(project)
    messages = []
    for name, step in workflow.passes.items():
        stage = stages[name]
        manifest = stage.manifest if stage.state == "cached" else None
        if name == INPUT_ADAPTER or manifest is None or CARD in manifest.files:
            continue
        card = stage.target / CARD
        text = model_card(_card_model(project, workflow, name, step.produces, manifest, stages, runs))
        if is_edited(card):
            messages.append(f"{project.shown(card)} is edited and kept; delete it for a card with the current scores")
        elif not card.is_file() or card.read_text(encoding="utf-8") != text:
            write_text(card, text)
    return messages


def _card_model(
    project: ProjectFolder,
    workflow: Workflow,
    name: str,
    kind: str,
    manifest: Manifest,
    stages: dict[str, Stage],
    runs: list[RecordedRun],
) -> CardModel:
    folder = stages[name].target
    trainings = [training for training in trainings_of(workflow.passes, name) if training != BASE]
    facts = [read_facts(project, workflow, training, _evaluation(workflow, training, stages)) for training in trainings]
    names = [
        _name_in_comparison(workflow, name, training, fact) for training, fact in zip(trainings, facts, strict=True)
    ]
    template = read_object(folder / _TEMPLATE)
    run = next((run for run in runs if _has_built(run, name, manifest)), None)
    return CardModel(
        title=f"{project.root.name}-{folder.name}",
        kind=kind,
        base=base_model(project, workflow),
        trainings=facts,
        names=names,
        precision=str(manifest.facts.get("precision", "")),
        prompt=str(template.get("prompt", "")) if template.get("kind") == "text" else "",
        is_chat=template.get("kind") == "chat",
        run=run.id if run else "",
        commit=str((run.record.get("git") or {}).get("commit", "")) if run else "",
        versions=manifest.facts.get("inputs", {}).get("versions", {}),
    )


def base_model(project: ProjectFolder, workflow: Workflow) -> ModelOrigin:
    """Return the origin of the base model; a folder of the user is named without its path."""
    path = base_model_path(workflow.input_model, project)
    manifest = read_manifest(path)
    facts: dict[str, Any] = manifest.facts if manifest else {}
    name = hub_name(path, project) or cached_name(path, project) or path.name
    license_ = str(facts.get("license") or "").lower()
    if embedded := EMBEDDED.get(name):
        note = f"converted to the Phi-3 architecture from the 4-bit file in `{embedded.requirement}`"
        return ModelOrigin(name, embedded.origin, "", note, license_)
    source = str(facts.get("source") or "")
    hub_id = source.removeprefix("hub:") if source.startswith("hub:") else hub_name(path, project)
    return ModelOrigin(name, hub_id, str(facts.get("commit") or ""), "", license_)


def _evaluation(workflow: Workflow, training: str, stages: dict[str, Stage]) -> dict[str, Any] | None:
    """Return the evaluation of a training if it is up to date."""
    measured = {of: stages[name] for name, of in evaluation_stages(workflow).items()}
    stage = measured.get(training)
    return read_object(stage.target / RESULTS) or None if stage and stage.state == "cached" else None


def _name_in_comparison(workflow: Workflow, step: str, training: str, facts: Facts) -> str:
    if not facts.evaluation:
        return ""
    return next((name for name, of in comparison_models(workflow, training).items() if of == step), "")


def _has_built(run: RecordedRun, stage: str, manifest: Manifest) -> bool:
    output = run.record.get("outputs", {}).get(stage, {})
    return output.get("state") == "done" and output.get("content") == manifest.content
