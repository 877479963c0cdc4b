"""Figures of a comparison as text, with their rows and intervals."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from phi_runtime.core.units import count

Model = Mapping[str, Any]
Ends = tuple[float, float]


def percent(value: float) -> str:
    """Format a fraction: 99 %; 99.2 % between 99 and 100."""
    return f"{100 * value:.1f} %" if 0.99 < value < 1 else f"{100 * value:.0f} %"


def percents(ends: Ends) -> str:
    """Format an interval of fractions: 95–100 %."""
    return f"{100 * ends[0]:.0f}–{100 * ends[1]:.0f} %"


def points(ends: Ends) -> str:
    """Format an interval of differences: -5 to +2 points."""
    return f"{100 * ends[0]:+.0f} to {100 * ends[1]:+.0f} points"


def quality(model: Model, metric: str, rows: int) -> str:
    """Format the main metric of a model, or for free text its perplexity, with interval and rows."""
    if metric not in model["metrics"]:
        ends = model["perplexity_interval"]
        interval = f" ({ends[0]:.2f}–{ends[1]:.2f})" if ends else ""
        return f"perplexity {model['perplexity']:.2f}{interval} on {count(rows, 'row')}"
    value, ends = model["metrics"][metric], model["interval"]
    interval = f" ({percents(ends)})" if ends else ""
    if metric == "accuracy":
        return f"{round(value * rows)} of {rows:,} right{interval}"
    return f"{metric.replace('_', ' ')} {percent(value)}{interval} on {count(rows, 'row')}"


def short_quality(model: Model, metric: str) -> str:
    """Format the main metric of a model, or for free text its perplexity."""
    if metric in model["metrics"]:
        return percent(model["metrics"][metric])
    return f"{model['perplexity']:.2f}"


def loss_is_open(versus: Mapping[str, Any]) -> bool:
    """Return True if the rows do not exclude that a tenth of the main metric is lost."""
    return versus["interval"] is not None and versus["interval"][0] < -0.1


def difference(model: Model, other: Model, metric: str, rows: int) -> str:
    """Format how a model differs from another on the same rows."""
    versus = model["versus"]
    name = metric.replace("_", " ") if metric in model["metrics"] else "perplexity"
    scores = ", ".join(f"{short_quality(each, metric)} ({each['name']})" for each in (other, model))
    interval = versus["interval"]
    ends = f"; {points(interval)}" if interval and metric in model["metrics"] else ""
    return f"{name} {scores}; {versus['lost']} lost, {versus['gained']} gained of {count(rows, 'row')}{ends}"
