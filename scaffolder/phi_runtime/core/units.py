"""Formats of counts, sizes, durations, energy, shares and intervals for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def count(number: int, noun: str) -> str:
    """Format a number of things: 1 row, 1,402 rows."""
    return f"{number:,} {noun if number == 1 else f'{noun}s'}"


def size(number: float) -> str:
    """Format bytes in the unit that fits: 86.3 MB."""
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.0f} {unit}" if unit == "B" or number >= 100 else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:.1f} TB"


def duration(seconds: float) -> str:
    """Format seconds: 4.2 s, 1 min 20 s, 2 h 5 min."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    if seconds < 3600:
        return f"{int(seconds // 60)} min {int(seconds % 60)} s"
    return f"{int(seconds // 3600)} h {int(seconds % 3600 // 60)} min"


def energy(figures: Mapping[str, Any]) -> str:
    """Format the energy of a stage in watt-hours: CPU 1.25 Wh, GPU 31.0 Wh; what was not measured has no part.

    Args:
        figures: An entry of stages.json.
    """
    parts = (("CPU", figures.get("cpu_energy_j")), ("GPU", figures.get("gpu_energy_j")))
    return ", ".join(f"{name} {_watt_hours(joules)}" for name, joules in parts if joules is not None)


def _watt_hours(joules: float) -> str:
    hours = joules / 3600
    if hours >= 1000:
        return f"{hours / 1000:.2f} kWh"
    return f"{hours:.1f} Wh" if hours >= 10 else f"{hours:.2f} Wh"


def percent(share: float) -> str:
    """Format a share: 0.9917 → 99.2 %."""
    return f"{100 * share:.1f} %"


def percents(ends: Sequence[float] | None) -> str:
    """Format an interval of shares, without the unit: 95.4–99.9; nothing for None."""
    return f"{100 * ends[0]:.1f}–{100 * ends[1]:.1f}" if ends else ""


def interval(ends: Sequence[float] | None, digits: int = 2) -> str:
    """Format an interval: 0.62–0.91; nothing for None."""
    return f"{ends[0]:.{digits}f}–{ends[1]:.{digits}f}" if ends else ""
