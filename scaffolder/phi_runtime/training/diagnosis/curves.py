"""What the numbers of a loss log say: levels, trends and noise, by medians, so that one odd line changes nothing."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations, pairwise
from statistics import median
from typing import Any, NamedTuple


class Point(NamedTuple):
    """A figure of the log, the optimizer step at which it was taken, and how many epochs were done then."""

    step: int
    value: float
    epoch: float = 0.0


Curve = Sequence[Point]


def curve(log: Iterable[Mapping[str, Any]], name: str) -> list[Point]:
    """The lines of Trainer's log that have `name` ("loss", "eval_loss", "grad_norm"), without those that are not a number."""
    return [
        Point(int(line["step"]), float(line[name]), float(line.get("epoch") or 0.0))
        for line in log
        if line.get(name) is not None and math.isfinite(line[name])
    ]


def part(points: Curve, start: float, end: float) -> Curve:
    """From the share `start` of the points to the share `end`: part(points, 0.75, 1) is the last quarter. At least one point."""
    first = min(round(start * len(points)), len(points) - 1)
    return points[first : max(round(end * len(points)), first + 1)]


def level(points: Curve) -> float:
    """The median."""
    return median(point.value for point in points)


def lowest(points: Curve, width: int) -> Curve:
    """The run of `width` points that lies lowest."""
    return min((points[i : i + width] for i in range(len(points) - width + 1)), key=level)


def above(high: Curve, low: Curve) -> float:
    """The share of pairs in which the point of `high` is the higher (Mann and Whitney 1947): 1 is apart, 0.5 is alike."""
    return sum(a.value > b.value for a in high for b in low) / (len(high) * len(low))


def distances(points: Curve) -> list[Point]:
    """How far neighbours are apart."""
    return [Point(after.step, abs(after.value - before.value)) for before, after in pairwise(points)]


def wobble(points: Curve) -> float:
    """The median distance of neighbours. 0 of fewer than two points."""
    return level(apart) if (apart := distances(points)) else 0.0


def slope(points: Curve) -> float:
    """What is gained a step: the median slope of all pairs (Theil 1950, Sen 1968). 0 of fewer than two points."""
    slopes = [(b.value - a.value) / (b.step - a.step) for a, b in combinations(_thinned(points), 2) if b.step > a.step]
    return median(slopes) if slopes else 0.0


def rising_share(points: Curve) -> float:
    """The share of pairs whose later point is the higher (Kendall 1938): 1 rises throughout, 0.5 has no direction."""
    pairs = list(combinations(_thinned(points), 2))
    return sum(b.value > a.value for a, b in pairs) / len(pairs) if pairs else 0.5


def _thinned(points: Curve, most: int = 200) -> Curve:
    """At most `most` of them, evenly: pairs grow with the square."""
    return points[:: math.ceil(len(points) / most)] if len(points) > most else points
