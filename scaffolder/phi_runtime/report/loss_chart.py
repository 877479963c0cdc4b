"""The chart of a training: loss of the training rows and of the validation rows, and the learning rate, by step."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import groupby

from phi_runtime.report.charts import WIDE, empty
from phi_runtime.report.scale import Scale, finite, is_wide, linear_ticks, range_around, short, thinned
from phi_runtime.report.svg import FONT, diamond, dots, element, image, line, polyline, text
from phi_runtime.report.text import width_em

Curve = Sequence[tuple[float, float | None]]  # step and value

_MAX_DOTS, _MAX_VALIDATION, _MAX_RATES = 600, 200, 150
_NAMED_VALIDATION = 40  # points whose numbers appear under a pointer
_HEIGHT, _RATE_HEIGHT, _GAP, _LEGEND_ROW = 190, 26, 10, 20


def loss_chart(
    loss: Curve,
    title: str,
    *,
    validation: Curve = (),
    learning_rate: Curve = (),
    best_step: float | None = None,
    width: int = WIDE,
) -> str:
    """Draw training losses as dots, validation losses as a line, and the learning rate as a band below.

    The axis of the loss is logarithmic where the losses spread far.

    Args:
        loss: Nats per token, by step.
        title: Such as the name of the pass.
        validation: Nats per token, by step.
        learning_rate: By step.
        best_step: Step whose weights were kept.
        width: Pixels.
    """
    trained, validated, rates = _points(loss), _points(validation), _points(learning_rate)
    if not trained and not validated:
        return empty(title, width)
    losses = [value for _, value in (*trained, *validated)]
    steps = [step for step, _ in (*trained, *validated, *rates)]
    log = is_wide(losses)
    low, high = range_around(losses, log=log)
    legend, top = _legend(trained, validated, rates, best_step, width)
    y = Scale(low, high, top + _HEIGHT, top, log)
    ticks = y.ticks(6)
    left = max((width_em(short(v)) * FONT for v in (*ticks, *(rate for _, rate in rates))), default=0) + 10
    last_step = max(*steps, 1)
    x = Scale(min(0, *steps), last_step, left, width - max(10, width_em(f"{last_step:,.0f}") * FONT / 2))
    parts = [*legend, *_y_axis(x, y, ticks)]
    bottom = y.start
    if rates:
        parts += _rate_band(rates, x, bottom + _GAP)
        bottom += _GAP + _RATE_HEIGHT
    parts += _step_axis(x, bottom, width)
    if best_step is not None and math.isfinite(best_step):
        parts.append(line(x.at(best_step), top, x.at(best_step), y.start, "best"))
    if trained:
        parts.append(dots(_placed(thinned(trained, _MAX_DOTS), x, y), "trained"))
    if validated:
        parts += _validation_line(thinned(validated, _MAX_VALIDATION), x, y, best_step)
    described = _description(trained, validated, rates, best_step, log)
    if unusable := sum(not finite([value]) for _, value in (*loss, *validation)):
        described += f" {unusable:,} values are not finite."
    return image(width, bottom + 36, parts, title, described, "loss-chart")


def _points(curve: Curve) -> list[tuple[float, float]]:
    """Return the points with finite numbers, by step; of several at one step, the last."""
    usable = [(step, value) for step, value in curve if value is not None and len(finite([step, value])) == 2]
    usable.sort(key=lambda point: point[0])
    return [list(same)[-1] for _, same in groupby(usable, key=lambda point: point[0])]


def _placed(points: Sequence[tuple[float, float]], x: Scale, y: Scale) -> list[tuple[float, float]]:
    return [(x.at(step), y.at(value)) for step, value in points]


def _description(
    trained: Sequence[tuple[float, float]],
    validated: Sequence[tuple[float, float]],
    rates: Sequence[tuple[float, float]],
    best_step: float | None,
    log: bool,
) -> str:
    """Return the curves in words, for a screen reader."""
    texts = []
    for name, points in (("Training loss", trained), ("Validation loss", validated)):
        if points:
            (first_step, first), (last_step, last) = points[0], points[-1]
            texts.append(f"{name}: {short(first)} at step {first_step:g}, {short(last)} at step {last_step:g}.")
    if rates:
        texts.append(f"Learning rate: at most {short(max(rate for _, rate in rates))}.")
    if best_step is not None:
        texts.append(f"Best: step {best_step:g}.")
    return " ".join([*texts, "Logarithmic axis."] if log else texts)


def _legend(
    trained: Sequence[tuple[float, float]],
    validated: Sequence[tuple[float, float]],
    rates: Sequence[tuple[float, float]],
    best_step: float | None,
    width: float,
) -> tuple[list[str], float]:
    """Return a sample and a name for each curve, in as many lines as they need, and where these end."""
    entries: list[tuple[str, Callable[[float, float], str]]] = []
    if trained:
        entries.append((f"training loss {short(trained[-1][1])}", lambda x, y: dots([(x + 10, y)], "trained")))
    if validated:
        entries.append((f"validation loss {short(validated[-1][1])}", _validation_sample))
    if rates:
        highest = short(max(rate for _, rate in rates))
        entries.append((f"learning rate ≤ {highest}", lambda x, y: _box(x + 2, y - 4, 16, 8)))
    if best_step is not None:
        entries.append((f"best: step {best_step:g}", lambda x, y: line(x + 10, y - 8, x + 10, y + 8, "best")))
    parts: list[str] = []
    x, y = 0.0, 12.0
    for words, sample in entries:
        room = 24 + width_em(words) * FONT
        if x and x + room > width:
            x, y = 0.0, y + _LEGEND_ROW
        parts += [sample(x, y), text(x + 24, y + 4.5, words, "name")]
        x += room + 16
    return parts, y + 18


def _validation_sample(x: float, y: float) -> str:
    return line(x, y, x + 20, y, "validated") + diamond(x + 10, y, 4, "validated-point")


def _box(x: float, y: float, width: float, height: float) -> str:
    return element("rect", {"class": "rate", "x": x, "y": y, "width": width, "height": height})


def _y_axis(x: Scale, y: Scale, ticks: Sequence[float]) -> list[str]:
    grid = [line(x.start, y.at(tick), x.end, y.at(tick), "grid") for tick in ticks]
    return grid + [text(x.start - 6, y.at(tick) + 4.5, short(tick), "tick end") for tick in ticks]


def _step_axis(x: Scale, bottom: float, width: float) -> list[str]:
    parts = [line(x.start, bottom, x.end, bottom, "axis")]
    for tick in linear_ticks(x.low, x.high, 6 if width > 440 else 4, least_step=1):
        parts.append(text(x.at(tick), bottom + 16, f"{tick:,.0f}", "tick middle"))
    return [*parts, text((x.start + x.end) / 2, bottom + 32, "step", "tick middle")]


def _rate_band(rates: Sequence[tuple[float, float]], x: Scale, top: float) -> list[str]:
    highest = max((rate for _, rate in rates), default=0)
    y = Scale(0, highest if highest > 0 else 1, top + _RATE_HEIGHT, top)
    points = _placed(thinned(rates, _MAX_RATES), x, y)
    outline = [(points[0][0], y.start), *points, (points[-1][0], y.start)]
    return [polyline(outline, "rate"), text(x.start - 6, top + 10, short(highest), "tick end")]


def _validation_line(points: Sequence[tuple[float, float]], x: Scale, y: Scale, best_step: float | None) -> list[str]:
    parts = [polyline(_placed(points, x, y), "validated")]
    for step, value in points:
        title = f"step {step:g}: validation loss {short(value)}" if len(points) <= _NAMED_VALIDATION else ""
        kind = "validated-point best-point" if step == best_step else "validated-point"
        parts.append(diamond(x.at(step), y.at(value), 6 if step == best_step else 4, kind, title))
    return parts
