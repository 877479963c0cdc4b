"""The constraints of a model, and by how much a model violates them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from phi_runtime.config.schema import Constraints
from phi_runtime.core.errors import UsageError

SIZE, DROP, SPEED, MEMORY = NAMES = ("max_size_mb", "max_accuracy_drop", "min_tokens_per_s", "max_memory_mb")
FIGURES = {SIZE: "size_mb", DROP: "accuracy_drop_interval", SPEED: "decode_tokens_per_s", MEMORY: "peak_memory_mb"}
_MIN_DROP = 0.01  # a smaller limit counts as this one when violations are compared


@dataclass(frozen=True)
class Violation:
    """A constraint that a model violates.

    Attributes:
        value: The measured figure; of a drop, the upper end of its interval.
        excess: In the constraint's unit.
        excess_share: A fraction of the limit.
        shown: False for a drop whose interval contains the limit: more rows could show that it is met.
    """

    constraint: str
    limit: float
    value: float
    excess: float
    excess_share: float
    shown: bool = True

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def relaxed_limit(self) -> float:
        """The nearest rounded limit that the model meets."""
        if self.constraint == DROP:
            return math.ceil(self.value * 1e4 - 1e-6) / 1e4
        if self.constraint == SPEED:
            return math.floor(self.value * 10) / 10
        return float(math.ceil(self.value))

    @property
    def flag(self) -> str:
        """The command line flag with the relaxed limit."""
        return flag(self.constraint, self.relaxed_limit)


@dataclass(frozen=True)
class ConstraintVerdict:
    """The constraints that a model violates, and those whose figure is unknown."""

    violations: tuple[Violation, ...] = ()
    unknown: tuple[str, ...] = ()


def flag(constraint: str, limit: float) -> str:
    """Return the command line flag that sets a constraint."""
    return f"--{constraint.replace('_', '-')} {limit:g}"


def resolve_constraints(flags: Mapping[str, float | None], sidecar: Constraints, defaults: Constraints) -> Constraints:
    """Return each constraint from the command line, else from evaluation.json, else from the target.

    Raises:
        UsageError: A value of the command line is out of range.
    """
    for name, value in flags.items():
        if value is None:
            continue
        option = f"--{name.replace('_', '-')}"
        if name == DROP and not 0 <= value <= 1:
            raise UsageError(f"{option} {value:g} is not between 0 and 1", fix=f"write 2 % as {option} 0.02")
        if name != DROP and not 0 < value < math.inf:
            raise UsageError(f"{option} {value:g} is not above 0", fix=f"set {option} to a number above 0")
    values = {
        name: next(
            (v for v in (flags.get(name), getattr(sidecar, name), getattr(defaults, name)) if v is not None), None
        )
        for name in NAMES
    }
    return Constraints.model_validate(values)


def limits_accuracy(constraints: Constraints) -> bool:
    """Return True if a model can lose too much accuracy; a drop of 1 allows everything."""
    return constraints.max_accuracy_drop is not None and constraints.max_accuracy_drop < 1


def check_constraints(figures: Mapping[str, Any], constraints: Constraints) -> ConstraintVerdict:
    """Compare measured figures (see FIGURES; None if not measured) with the constraints.

    A drop of accuracy meets its limit if the whole interval does, so that a model is not accepted by chance.
    """
    violations, unknown = [], []
    for name, figure in FIGURES.items():
        limit, value = getattr(constraints, name), figures.get(figure)
        if limit is None or (name == DROP and not limits_accuracy(constraints)):
            continue
        if value is None:
            unknown.append(name)
            continue
        lowest, value = value if name == DROP else (value, value)
        excess = limit - value if name == SPEED else value - limit
        if excess > 0:
            scale = max(limit, _MIN_DROP) if name == DROP else limit
            violations.append(
                Violation(
                    name, limit, value, round(excess, 4), round(excess / scale, 4), name != DROP or lowest > limit
                )
            )
    return ConstraintVerdict(tuple(violations), tuple(unknown))


def nearest(verdicts: Mapping[str, ConstraintVerdict]) -> str | None:
    """Return the model with the fewest violations, of equals the one whose largest violation is smallest."""

    def distance(name: str) -> tuple[int, float]:
        violations: Sequence[Violation] = verdicts[name].violations
        return len(violations), max((violation.excess_share for violation in violations), default=0)

    return min(verdicts, key=distance, default=None)
