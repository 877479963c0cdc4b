"""Levels, trends and noise of the curves in a loss log, by medians, so that a single outlier changes nothing."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations, pairwise
from statistics import median
from typing import Any, NamedTuple


class Point(NamedTuple):
    """A figure of the log, with the optimizer step and the epochs at which it was logged."""

    step: int
    value: float
    epoch: float = 0.0


Curve = Sequence[Point]


def curve(log: Iterable[Mapping[str, Any]], name: str) -> list[Point]:
    """Return the finite values of `name` ("loss", "eval_loss", "grad_norm") in Trainer's log."""
    return [
        Point(int(entry["step"]), float(entry[name]), float(entry.get("epoch") or 0.0))
        for entry in log
        if entry.get(name) is not None and math.isfinite(entry[name])
    ]


def part(points: Curve, start: float, end: float) -> Curve:
    """Return the points between two shares of the curve, at least one; 0.75 to 1 is the last quarter."""
    first = min(round(start * len(points)), len(points) - 1)
    return points[first : max(round(end * len(points)), first + 1)]


def level(points: Curve) -> float:
    """Return the median."""
    return median(point.value for point in points)


def lowest(points: Curve, width: int) -> Curve:
    """Return the `width` consecutive points with the lowest median."""
    return min((points[i : i + width] for i in range(len(points) - width + 1)), key=level)


def above(high: Curve, low: Curve) -> float:
    """Return the share of pairs in which the point of `high` is higher (Mann and Whitney 1947).

    1: the curves are apart; 0.5: they are alike.
    """
    return sum(a.value > b.value for a in high for b in low) / (len(high) * len(low))


def distances(points: Curve) -> list[Point]:
    """Return the absolute differences of consecutive points."""
    return [Point(after.step, abs(after.value - before.value)) for before, after in pairwise(points)]


def wobble(points: Curve) -> float:
    """Return the median difference of consecutive points; 0 for fewer than two points."""
    return level(differences) if (differences := distances(points)) else 0.0


def slope(points: Curve) -> float:
    """Return the change per step, the median slope of all pairs (Theil 1950, Sen 1968); 0 for fewer than two points."""
    slopes = [(b.value - a.value) / (b.step - a.step) for a, b in combinations(_thinned(points), 2) if b.step > a.step]
    return median(slopes) if slopes else 0.0


def rising_share(points: Curve) -> float:
    """Return the share of pairs whose later point is higher (Kendall 1938).

    1: the curve rises throughout; 0.5: it has no direction.
    """
    pairs = list(combinations(_thinned(points), 2))
    return sum(b.value > a.value for a, b in pairs) / len(pairs) if pairs else 0.5


def _thinned(points: Curve, max_points: int = 200) -> Curve:
    """Return at most `max_points`, evenly spaced: the number of pairs grows with the square."""
    return points[:: math.ceil(len(points) / max_points)] if len(points) > max_points else points
