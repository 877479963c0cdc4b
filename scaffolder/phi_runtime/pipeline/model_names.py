"""What the models of a project are called, where a user names one: `--model adapter-style`."""

from __future__ import annotations

from collections.abc import Collection

from phi_runtime.config.pass_graph import BASE, trainings_of
from phi_runtime.config.schema import Workflow
from phi_runtime.config.stage_names import evaluation_stages
from phi_runtime.core.errors import UsageError
from phi_runtime.core.project import Project
from phi_runtime.core.suggestions import did_you_mean
from phi_runtime.pipeline.plan import folder_of, rung_name


def model_names(workflow: Workflow, project: Project) -> dict[str, str]:
    """Every name, and the pass whose model it means (BASE for the base model): base, adapter, merged, finetuned or onnx, which mean
    the first of their kind, then the names of folders (adapter-style), then those of passes. A model is shown by its first name."""
    names = {BASE: BASE}
    for made in workflow.passes:
        names.setdefault(rung_name(workflow, made).partition("-")[0], made)
    for made in workflow.passes:
        names.setdefault(folder_of(workflow, project, made).name, made)
    for made in workflow.passes:
        names.setdefault(made, made)
    return names


def shown_name(names: dict[str, str], made: str) -> str:
    """What the model of the pass `made` is called first."""
    return next(name for name, other in names.items() if other == made)


def model_called(wanted: str, names: dict[str, str], there: Collection[str]) -> str:
    """The pass whose model is called `wanted`, if it is among those that are `there`. Raises UsageError, which lists those."""
    if names.get(wanted) in there:
        return names[wanted]
    listed = [shown_name(names, made) + (f" ({made})" if shown_name(names, made) != made else "") for made in there]
    near = did_you_mean(wanted, [name for name, made in names.items() if made in there])
    rest = "; `phi-scaffold run` makes the others" if set(names.values()) - set(there) else ""
    raise UsageError(f"there is no model `{wanted}`{near}", fix=f"there are {', '.join(listed)}{rest}")


def stages_that_measure(wanted: str | None, workflow: Workflow, project: Project) -> list[str]:
    """The evaluation stages that measure the model called `wanted`, the base model standing on every ladder; all for None.

    Raises UsageError."""
    measured = evaluation_stages(workflow)
    if wanted is None:
        return list(measured)
    made = model_called(wanted, model_names(workflow, project), [BASE, *workflow.passes])
    trainings = trainings_of(workflow.passes, made)
    return [stage for stage, of in measured.items() if made == BASE or of in trainings]
