"""What a trial is told by: its name, which way is better, and where it stands in what a trial has made."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from phi_runtime.config.schema import Workflow
from phi_runtime.core.errors import UsageError
from phi_runtime.core.project import Project
from phi_runtime.core.suggestions import did_you_mean
from phi_runtime.data.hooks import hooks_file
from phi_runtime.evaluation.metrics import score

VALIDATION_LOSS, PERPLEXITY = "validation_loss", "perplexity"
_VALIDATION = "validation_"
_SAME = {"loss": VALIDATION_LOSS, "eval_loss": VALIDATION_LOSS, "held_out_loss": VALIDATION_LOSS}


def checked(name: str, workflow: Workflow, trained: str, project: Project) -> str:
    """The metric `name` in its one spelling. Raises UsageError when nothing measures it."""
    name = _SAME.get(name, name)
    known = [VALIDATION_LOSS, PERPLEXITY, *score(workflow.evaluation.of(trained).task, [""], [""])]
    own = hooks_file(project.config, ("metrics",)) is not None  # which may give any name
    if name not in known and not own:
        raise UsageError(
            f"there is no metric `{name}`{did_you_mean(name, known)}",
            fix=f"choose one of {', '.join(known)}; those of another task follow from `task` in evaluation.json",
        )
    return name


def text(name: str) -> str:
    """The metric as a person writes it."""
    return name.replace("_", " ")


def minimised(name: str) -> bool:
    """Whether less of it is better."""
    return name == PERPLEXITY or name.endswith("loss")


def of_events(name: str, data: dict[str, Any]) -> float | None:
    """What tells, in the middle of a training, how good it is, larger being better if so it is for `name`: the metric itself where
    training measures it, else the validation loss. None where `data` of a metric event hold neither."""
    if name != VALIDATION_LOSS and _VALIDATION + name in data:
        return float(data[_VALIDATION + name])
    if VALIDATION_LOSS not in data:
        return None
    loss = float(data[VALIDATION_LOSS])
    return loss if minimised(name) else -loss


def of_log(log: Path, best_step: int | None) -> dict[str, float]:
    """The validation figures, by name, of the state that was kept, from the loss log beside a trained model: that of `best_step`, or
    the last one."""
    entries = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    measured = [e for e in entries if "eval_loss" in e and best_step in (None, e.get("step"))]
    if not measured:
        return {}
    figures = {
        key.removeprefix("eval_"): float(value) for key, value in measured[-1].items() if key.startswith("eval_")
    }
    figures[VALIDATION_LOSS] = figures.pop("loss")
    return figures
