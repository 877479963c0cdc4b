"""Names and order of the stages that a config describes."""

from __future__ import annotations

from phi_runtime.config.pass_graph import INPUT_ADAPTER
from phi_runtime.config.schema import Workflow

FETCH, EVALUATE = "fetch", "evaluate"


def stage_order(workflow: Workflow) -> list[str]:
    """Return the names of all stages in the order in which they run."""
    return [FETCH, *workflow.passes, *evaluation_stages(workflow)]


def evaluation_stages(workflow: Workflow) -> dict[str, str | None]:
    """Return the evaluation stages, each with the training pass whose test rows it uses.

    The first pass that trains is measured by `evaluate`, each further one by `evaluate-<pass>`. A workflow without training
    measures its input adapter; without that or without rows, its single `evaluate` stage, mapped to None, measures nothing.
    """
    names = list(workflow.trainings)
    if not names and INPUT_ADAPTER in workflow.passes and workflow.passes[INPUT_ADAPTER].rows:
        names = [INPUT_ADAPTER]
    first = names[0] if names else None
    return {EVALUATE: first, **{f"{EVALUATE}-{name}": name for name in names[1:]}}
