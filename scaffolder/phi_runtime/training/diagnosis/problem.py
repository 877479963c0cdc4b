"""A problem of a training, its data or its models, as it is shown and recorded."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

ProblemKind = Literal[
    "not measured",
    "no comparison",
    "one label",
    "leakage",
    "near duplicates",
    "truncated answers",
    "contradictory labels",
    "inconsistent labels",
    "doubtful labels",
    "learning rate too high",
    "nothing learned",
    "too few training rows",
    "overfitting",
    "learning rate too low",
    "not finished",
    "class imbalance",
    "rows too long",
    "no better than a simple baseline",
    "no better than the base model",
    "too few test rows",
    "loss by rounding",
    "more wrong than right",
    "chosen on these rows",
    "duplicate rows",
    "plateau",
    "memory",
    "slow training",
]
"""All problems, in the order in which they are shown: a cause before its effects."""

Light = Literal["ready", "check", "not ready"]


class Adjustment(NamedTuple):
    """A new value of a setting, None where it is not known, and the change as text."""

    setting: str
    value: Any
    text: str


@dataclass(frozen=True)
class Diagnosis:
    """One problem.

    Attributes:
        problem: Kind of problem.
        evidence: The numbers behind it.
        setting: Dotted key of the setting to change: in the config of the pass, or from the top of `file`. Empty if none helps.
        advice: New value of that setting, and what else helps.
        value: New value of that setting.
        file: File of the setting, or of the rows to change.
        light: Best light that a model with this problem gets.
    """

    problem: ProblemKind
    evidence: str
    setting: str
    advice: str
    value: Any = None
    file: str = ""
    light: Light = "ready"

    @classmethod
    def of(cls, problem: ProblemKind, evidence: str, change: Adjustment, advice: str = "") -> Diagnosis:
        """Return the diagnosis of a problem that `change` solves; `advice` is the text of it and of what else helps, if anything."""
        return cls(problem, evidence, change.setting, advice or change.text, change.value)

    def as_dict(self) -> dict[str, Any]:
        """Return the entry of `diagnosis` in the stage's manifest and `metric` event, and of `findings` in a verdict."""
        return asdict(self)
