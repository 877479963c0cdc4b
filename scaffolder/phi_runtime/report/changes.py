"""Changes that a finding advises: keys of the config and of evaluation.json, never with a value that they have."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from pydantic import BaseModel

from phi_runtime.config.schema import Evaluation, Workflow

EVALUATION = "evaluation.json"
_ALTERNATIVES = 3  # changes that one finding names


class AdvisedChange(NamedTuple):
    """New values by dotted key from the top of the file, to be set together."""

    values: Mapping[str, Any]
    in_evaluation: bool = False


def open_changes(changes: Iterable[AdvisedChange], workflow: Workflow) -> list[AdvisedChange]:
    """Return the first changes whose values the config does not have, without the values that it has."""
    left = []
    for change in changes:
        top = workflow.evaluation if change.in_evaluation else workflow
        values = {key: value for key, value in change.values.items() if value_at(top, key) != value}
        if values:
            left.append(AdvisedChange(values, change.in_evaluation))
    return left[:_ALTERNATIVES]


def as_text(change: AdvisedChange, workflow: Workflow) -> str:
    """Return a change as text: `num_train_epochs 3 → 1`."""
    top = workflow.evaluation if change.in_evaluation else workflow
    pairs = ((key, value_at(top, key), value) for key, value in change.values.items())
    return " with ".join(f"{key.rpartition('.')[2]} {_shown(now)} → {_shown(value)}" for key, now, value in pairs)


def value_at(top: Workflow | Evaluation, key: str) -> Any:
    """Return the value of a dotted key, in which data configs have their names, with defaults; None if there is none."""
    value: Any = top
    for part in key.split("."):
        if isinstance(value, list):
            value = next((item for item in value if item.name == part), None)
        elif isinstance(value, Mapping):
            value = value.get(part)
        elif isinstance(value, BaseModel):
            value = getattr(value, part, None)
        else:
            return None
    return value


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else json.dumps(value, ensure_ascii=False)
