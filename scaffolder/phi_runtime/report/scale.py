"""Axes of charts: where values are drawn, and which of them have a tick."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

_LOG_RATIO = 20.0  # a loss that falls further than this is read on a logarithmic axis
_FLAT_SHARE = 0.05  # of a constant value: half of the range around it


@dataclass(frozen=True)
class Scale:
    """Map from values to pixels.

    Attributes:
        low, high: Range of the values; positive where `log`.
        start, end: Pixels of `low` and `high`.
        log: True for a logarithmic axis.
    """

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def at(self, value: float) -> float:
        """Return the pixel of `value`; of a value outside of the range, that of the nearer end."""
        low, high, value = (
            (math.log(v) if self.log else v) for v in (self.low, self.high, min(max(value, self.low), self.high))
        )
        return self.start + (value - low) / (high - low) * (self.end - self.start)

    def ticks(self, count: int = 5) -> list[float]:
        """Return about `count` round values within the range."""
        if not self.log:
            return linear_ticks(self.low, self.high, count)
        first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
        for factors in ((1, 2, 5), (1, 3), (1,)):
            ticks = [factor * 10.0**power for power in range(first, last + 1) for factor in factors]
            ticks = [tick for tick in ticks if self.low * 0.999 <= tick <= self.high * 1.001]
            if len(ticks) <= count + 1:
                break
        every = math.ceil(len(ticks) / (count + 1)) or 1
        return ticks[::every] if len(ticks) >= 2 else linear_ticks(self.low, self.high, count)


def linear_ticks(low: float, high: float, count: int, *, least_step: float = 0.0) -> list[float]:
    """Return about `count` values from `low` to `high` that are multiples of 1, 2 or 5 times a power of ten."""
    raw = max((high - low) / max(count, 1), least_step, 1e-300)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * 0.9)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(index * step, 12 - math.floor(math.log10(step))) for index in range(first, last + 1)]


def is_wide(values: Sequence[float]) -> bool:
    """Return True if positive values spread so far that only a logarithmic axis shows them all."""
    return bool(values) and min(values) > 0 and max(values) / min(values) > _LOG_RATIO


def range_around(values: Sequence[float], *, log: bool = False) -> tuple[float, float]:
    """Return a range that holds `values` with a little room; (0, 1) without any."""
    if not values:
        return 0.0, 1.0
    low, high = min(values), max(values)
    if low == high:
        half = abs(low) * _FLAT_SHARE or 0.5
        return low - half, high + half
    if log:
        room = (high / low) ** _FLAT_SHARE
        return low / room, high * room
    room = (high - low) * _FLAT_SHARE
    return (0.0 if 0 <= low <= 0.3 * high else low - room), high + room


def finite(values: Iterable[float | None]) -> list[float]:
    """Return the values that are numbers."""
    return [value for value in values if value is not None and math.isfinite(value)]


def thinned(points: Sequence[tuple[float, float]], limit: int) -> list[tuple[float, float]]:
    """Return at most `limit` of the points: the lowest and the highest of equal parts, so that no peak is lost."""
    if len(points) <= limit:
        return list(points)
    parts = limit // 2
    kept: set[int] = set()
    for part in range(parts):
        indices = range(part * len(points) // parts, (part + 1) * len(points) // parts)
        kept |= {min(indices, key=lambda i: points[i][1]), max(indices, key=lambda i: points[i][1])}
    return [points[i] for i in sorted(kept)]


def short(value: float) -> str:
    """Format a number with three digits: 5.57, 0.0156, 1,234, 6.1e-6."""
    if value and abs(value) < 1e-3:
        mantissa, _, exponent = f"{value:.1e}".partition("e")
        return f"{mantissa.removesuffix('.0')}e{int(exponent)}"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
