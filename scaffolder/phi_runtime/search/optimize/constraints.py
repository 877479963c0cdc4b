"""What a model must keep to, and by how much it does not."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from phi_runtime.config.schema import Constraints
from phi_runtime.core.errors import UsageError

SIZE, DROP, SPEED, MEMORY = NAMES = ("max_size_mb", "max_accuracy_drop", "min_tokens_per_s", "max_memory_mb")
FIGURES = {SIZE: "size_mb", DROP: "accuracy_drop", SPEED: "decode_tokens_per_s", MEMORY: "peak_memory_mb"}
_SMALLEST_DROP = 0.01  # by which a drop is weighed against other misses, where the limit is less


@dataclass(frozen=True)
class Violation:
    """A constraint that a model does not keep. `by` is in the constraint's own unit, `share` that of the limit."""

    constraint: str
    limit: float
    value: float
    by: float
    share: float

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def loosened(self) -> float:
        """The limit that would do."""
        if self.constraint == DROP:
            return math.ceil(self.value * 1e4 - 1e-6) / 1e4
        if self.constraint == SPEED:
            return math.floor(self.value * 10) / 10
        return float(math.ceil(self.value))

    @property
    def flag(self) -> str:
        """How to loosen it on the command line."""
        return f"--{self.constraint.replace('_', '-')} {self.loosened:g}"


@dataclass(frozen=True)
class Verdict:
    """What came of comparing a model with the constraints: those that it misses, and those whose figure is not known."""

    misses: tuple[Violation, ...] = ()
    unknown: tuple[str, ...] = ()


def constraints_of(given: Mapping[str, float | None], beside: Constraints, defaults: Constraints) -> Constraints:
    """The constraints in force: each as the command line says, else evaluation.json, else the target. Raises UsageError."""
    for name, value in given.items():
        if value is None:
            continue
        flag = f"--{name.replace('_', '-')} {value:g}"
        if name == DROP and not 0 <= value <= 1:
            raise UsageError(f"{flag}: a drop is a fraction from 0 to 1", fix=f"2 % are {flag.rpartition(' ')[0]} 0.02")
        if name != DROP and not 0 < value < math.inf:
            raise UsageError(f"{flag}: this must be more than 0", fix="give a number above 0")
    found = {
        name: next(
            (v for v in (given.get(name), getattr(beside, name), getattr(defaults, name)) if v is not None), None
        )
        for name in NAMES
    }
    return Constraints.model_validate(found)


def asks_for_accuracy(constraints: Constraints) -> bool:
    """Whether any model can be too bad: a drop of 1 is all there can be."""
    return constraints.max_accuracy_drop is not None and constraints.max_accuracy_drop < 1


def judge(figures: Mapping[str, Any], constraints: Constraints) -> Verdict:
    """Compares figures (see FIGURES; None for what was not measured) with the constraints in force."""
    misses, unknown = [], []
    for name, figure in FIGURES.items():
        limit, value = getattr(constraints, name), figures.get(figure)
        if limit is None or (name == DROP and not asks_for_accuracy(constraints)):
            continue
        if value is None:
            unknown.append(name)
            continue
        by = limit - value if name == SPEED else value - limit
        if by > 0:
            weighed = max(limit, _SMALLEST_DROP) if name == DROP else limit
            misses.append(Violation(name, limit, value, round(by, 4), round(by / weighed, 4)))
    return Verdict(tuple(misses), tuple(unknown))


def nearest(verdicts: Mapping[str, Verdict]) -> str | None:
    """The name of the model that is nearest to holding: that with the fewest misses, then with the smallest largest one."""

    def distance(name: str) -> tuple[int, float]:
        misses: Sequence[Violation] = verdicts[name].misses
        return len(misses), max((miss.share for miss in misses), default=0)

    return min(verdicts, key=distance, default=None)
