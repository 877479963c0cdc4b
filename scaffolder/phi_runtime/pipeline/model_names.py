"""Names of a project's models, in comparisons and where a user selects one: `--model adapter-style`."""

from __future__ import annotations

from collections.abc import Collection

from phi_runtime.config.pass_graph import BASE, INPUT_ADAPTER, compared_models, is_trained_further, trainings_of
from phi_runtime.config.schema import ExportPass, Workflow
from phi_runtime.config.stage_names import evaluation_stages
from phi_runtime.core.errors import UsageError
from phi_runtime.core.project import ProjectFolder
from phi_runtime.core.suggestions import did_you_mean
from phi_runtime.pipeline.stage import model_folder


def comparison_models(workflow: Workflow, training: str) -> dict[str, str]:
    """Return the models compared for the pass `training`: the pass of each by its name in the comparison.

    A name that occurs again gets the name of its pass added.
    """
    models: dict[str, str] = {}
    for step in compared_models(workflow.passes, training):
        name = comparison_name(workflow, step)
        models[f"{name}-{step}" if name in models else name] = step
    return models


def comparison_name(workflow: Workflow, step_name: str) -> str:
    """Return the kind of the model of a pass: base, adapter, merged, finetuned, or onnx-int4 and the like."""
    if step_name == BASE:
        return BASE
    if step_name == INPUT_ADAPTER and is_trained_further(workflow.passes):
        return INPUT_ADAPTER
    step = workflow.passes[step_name]
    if isinstance(step, ExportPass):
        return f"onnx-{step.precision}"
    if step.accepts == "adapter":
        return "merged"
    return "adapter" if step.produces == "adapter" else "finetuned"


def model_names(workflow: Workflow, project: ProjectFolder) -> dict[str, str]:
    """Return every name of every model, with the pass whose output it names (BASE for the base model).

    First base, adapter, merged, finetuned and onnx, which name the first model of that kind, then the
    names of the folders (adapter-style), then those of the passes. A model is shown by its first name.
    """
    names = {BASE: BASE}
    for step in workflow.passes:
        names.setdefault(comparison_name(workflow, step).partition("-")[0], step)
    for step in workflow.passes:
        names.setdefault(model_folder(workflow, project, step).name, step)
    for step in workflow.passes:
        names.setdefault(step, step)
    return names


def shown_name(names: dict[str, str], step: str) -> str:
    """Return the first name of the model of the pass `step`."""
    return next(name for name, other in names.items() if other == step)


def find_model(requested: str, names: dict[str, str], existing: Collection[str]) -> str:
    """Return the pass whose model is called `requested`.

    Raises:
        UsageError: The model is not among the `existing` ones, which the error lists.
    """
    if names.get(requested) in existing:
        return names[requested]
    listed = [shown_name(names, step) + (f" ({step})" if shown_name(names, step) != step else "") for step in existing]
    near = did_you_mean(requested, [name for name, step in names.items() if step in existing])
    more = "; `phi-scaffold run` builds the others" if set(names.values()) - set(existing) else ""
    raise UsageError(f"there is no model `{requested}`{near}", fix=f"choose one of {', '.join(listed)}{more}")


def stages_that_measure(requested: str | None, workflow: Workflow, project: ProjectFolder) -> list[str]:
    """Return the evaluation stages whose comparison contains the model called `requested`; all for None.

    Raises:
        UsageError: No pass has this name.
    """
    trainings = evaluation_stages(workflow)
    if requested is None:
        return list(trainings)
    step = find_model(requested, model_names(workflow, project), [BASE, *workflow.passes])
    measured_by = trainings_of(workflow.passes, step)
    return [stage for stage, training in trainings.items() if step == BASE or training in measured_by]
