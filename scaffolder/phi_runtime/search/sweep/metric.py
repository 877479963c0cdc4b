"""The metric of a search: its name, its direction, and how to read it from the output of a trial."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from phi_runtime.config.confusions import MEAN_COST
from phi_runtime.config.parse import EVALUATION
from phi_runtime.config.schema import Workflow
from phi_runtime.config.search_space import (
    COST_FIX,
    COST_MISSING,
    METRIC_ALIASES,
    PERPLEXITY,
    VALIDATION_LOSS,
    metrics_of,
)
from phi_runtime.config.sidecars import sidecar_path
from phi_runtime.core.errors import Location, UsageError
from phi_runtime.core.project import ProjectFolder
from phi_runtime.core.suggestions import did_you_mean
from phi_runtime.data.hooks import hooks_file
from phi_runtime.training.diagnosis.run import read_loss_log

_VALIDATION = "validation_"


def require_metric(name: str, workflow: Workflow, trained: str, project: ProjectFolder) -> str:
    """Return the canonical name of a metric.

    Raises:
        UsageError: Nothing measures it.
    """
    name = METRIC_ALIASES.get(name, name)
    evaluation = workflow.evaluation.of(trained)
    if name == MEAN_COST and not evaluation.cost:
        raise UsageError(
            COST_MISSING,
            where=Location(sidecar_path(project.config, EVALUATION)),
            fix=COST_FIX,
        )
    known = metrics_of(evaluation)
    user_metrics = hooks_file(project.config, ("metrics",)) is not None  # which may return any name
    if name not in known and not user_metrics:
        raise UsageError(
            f"no metric is called `{name}`{did_you_mean(name, known)}",
            fix=f"choose one of {', '.join(known)}; those of other tasks need `task` in evaluation.json",
        )
    return name


def label(name: str) -> str:
    """Return the metric's name for display."""
    return name.replace("_", " ")


def is_minimized(name: str) -> bool:
    """Return True if lower values of the metric are better."""
    return name in (PERPLEXITY, MEAN_COST) or name.endswith("loss")


def from_event(name: str, data: dict[str, Any]) -> float | None:
    """Return the intermediate value of a trial from a metric event, in the direction of the metric `name`.

    This is the metric itself if training measures it, else the validation loss, negated if the metric is
    maximized; None if the event has neither.
    """
    if name != VALIDATION_LOSS and _VALIDATION + name in data:
        return float(data[_VALIDATION + name])
    if VALIDATION_LOSS not in data:
        return None
    loss = float(data[VALIDATION_LOSS])
    return loss if is_minimized(name) else -loss


def from_log(folder: Path, best_step: int | None) -> dict[str, float]:
    """Return the validation figures, by name, of the saved state from the loss log of the trained model in `folder`.

    Args:
        best_step: The step whose state was saved; None for the last one.
    """
    entries = read_loss_log(folder)
    measured = [e for e in entries if "eval_loss" in e and best_step in (None, e.get("step"))]
    if not measured:
        return {}
    figures = {
        key.removeprefix("eval_"): float(value) for key, value in measured[-1].items() if key.startswith("eval_")
    }
    figures[VALIDATION_LOSS] = figures.pop("loss")
    return figures
