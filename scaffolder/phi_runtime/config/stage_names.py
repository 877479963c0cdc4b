"""Names of the stages of a workflow that are not passes, and the order of all of them."""

from __future__ import annotations

from phi_runtime.config.schema import Workflow

FETCH, EVALUATE = "fetch", "evaluate"


def stage_order(workflow: Workflow) -> list[str]:
    """The names of all stages, in the order in which they run."""
    return [FETCH, *workflow.passes, *evaluation_stages(workflow)]


def evaluation_stages(workflow: Workflow) -> dict[str, str | None]:
    """The stages that measure, each with the pass whose held-out rows it asks: `evaluate` for the first pass that trains,
    `evaluate-<pass>` for each further one. Where none trains, one that has nothing to measure."""
    names = list(workflow.trainings)
    first = names[0] if names else None
    return {EVALUATE: first, **{f"{EVALUATE}-{name}": name for name in names[1:]}}
