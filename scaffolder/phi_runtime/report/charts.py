"""Charts as SVG text from plain numbers: dots with intervals, bars and a heat map; loss curves are in loss_chart.py.

`width` is that of the page, in pixels: `WIDE` on a screen, `NARROW` on a phone; `both_widths` draws for both, and style.css
shows the one that fits. Values that are not finite are named, not drawn.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from phi_runtime.core.units import percent
from phi_runtime.report.scale import Scale, finite, linear_ticks, range_around, short
from phi_runtime.report.svg import FONT, element, image, line, text
from phi_runtime.report.text import escaped, width_em

WIDE, NARROW = 600, 340
_TILTED_ROOM = 90.0  # pixels for the names of a heat map's columns
_LABEL_SHARE = 0.36  # of the width, at most, for the labels of rows
_SHADES = 8  # of a heat map's cells
_DARKEST = 0.5  # opacity of the darkest, on which numbers are still read
_MAX_BARS = 60


def both_widths(draw: Callable[[int], str]) -> str:
    """Return what `draw` returns for a screen and for a phone, as HTML; style.css shows one of them."""
    return f'<div class="wide">{draw(WIDE)}</div><div class="narrow">{draw(NARROW)}</div>'


def data_table(caption: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return an HTML table of the numbers behind a chart; the first column names the row, numbers align to the right."""
    head = "".join(f'<th scope="col">{escaped(column)}</th>' for column in columns)
    lines = []
    for first, *others in rows:
        cells = "".join(f"<td{' class=number' * _is_number(cell)}>{_cell(cell)}</td>" for cell in others)
        lines.append(f'<tr><th scope="row">{_cell(first)}</th>{cells}</tr>')
    return (
        f"<table><caption>{escaped(caption)}</caption><thead><tr>{head}</tr></thead>"
        f"<tbody>{''.join(lines)}</tbody></table>"
    )


def _is_number(cell: object) -> bool:
    return isinstance(cell, int | float) and not isinstance(cell, bool)


def _cell(cell: object) -> str:
    if isinstance(cell, float):
        return escaped(short(cell)) if math.isfinite(cell) else "–"
    return escaped(f"{cell:,}" if isinstance(cell, int) else "–" if cell is None else str(cell))


# -- dots with intervals ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PointEstimate:
    """A value with its interval.

    Attributes:
        low, high: Ends of the interval; None if there is none.
        is_baseline: True for a model that is only compared with, which is drawn as a ring.
    """

    label: str
    value: float | None
    low: float | None = None
    high: float | None = None
    is_baseline: bool = False


def dot_chart(
    estimates: Sequence[PointEstimate],
    title: str,
    *,
    baseline: PointEstimate | None = None,
    number: Callable[[float], str] = percent,
    limits: tuple[float, float] | None = (0.0, 1.0),
    width: int = WIDE,
) -> str:
    """Draw one line per estimate: a dot with its interval, and the numbers at the right.

    Args:
        estimates: From the top down.
        baseline: A value that is drawn as a dashed line over all lines.
        number: Format of a value.
        limits: Values that the axis never leaves, such as 0 and 1 for shares.
        width: Pixels.
    """
    if not estimates:
        return empty(title, width)
    stacked = width < 440  # a phone: the name and the numbers are above the interval
    labels = [_value_text(estimate, number) for estimate in estimates]
    names_width = 0.0 if stacked else _names_width([e.label for e in estimates], width)
    values_width = 0.0 if stacked else max(map(width_em, labels)) * FONT
    row, top = (38, 8) if stacked else (26, 8)
    bottom = top + row * len(estimates)
    drawn = [e for e in (*estimates, *([baseline] if baseline else ())) if finite([e.value])]
    low, high = range_around(finite(v for e in drawn for v in (e.value, e.low, e.high)))
    if limits:
        low, high = max(low, limits[0]), min(high, limits[1])
        low, high = (low, high) if low < high else limits
    edge = 23  # half of the text of a tick
    scale = Scale(low, high, names_width + edge, width - values_width - edge)
    rows = [top + row * i + (27 if stacked else row / 2) for i in range(len(estimates))]
    spans = [(y - 10, y + 10) for y in rows] if stacked else [(top, bottom)]  # lines do not cross text
    ticks = linear_ticks(low, high, int((scale.end - scale.start) / 60))
    parts = [line(scale.at(tick), start, scale.at(tick), end, "grid") for tick in ticks for start, end in spans]
    parts += [text(scale.at(v), bottom + 16, number(v).replace(".0 %", " %"), "tick middle") for v in ticks]
    if baseline and finite([baseline.value]):
        x = scale.at(baseline.value or 0)
        parts += [line(x, start, x, end, "baseline") for start, end in spans]
    for middle, estimate, label in zip(rows, estimates, labels, strict=True):
        words = middle - (14 if stacked else -4.5)
        label_room = width - width_em(label) * FONT - 16 if stacked else names_width - 6
        parts.append(text(0, words, estimate.label, "name", label_room))
        parts.append(text(width, words, label, "value end"))
        parts += _dot(estimate, scale, middle)
    described = "; ".join(f"{e.label}: {label}" for e, label in zip(estimates, labels, strict=True))
    if baseline and finite([baseline.value]):
        described += f". Dashed line: {baseline.label}, {number(baseline.value or 0)}"
    return image(width, bottom + 22, parts, title, described, "dot-chart")


def _value_text(estimate: PointEstimate, number: Callable[[float], str]) -> str:
    if estimate.value is None or not math.isfinite(estimate.value):
        return "no value"
    ends = finite([estimate.low, estimate.high])
    if len(ends) < 2:
        return number(estimate.value)
    low, high = (number(end).removesuffix(" %") for end in ends)
    return f"{number(estimate.value)} ({low}–{high})"


def _dot(estimate: PointEstimate, scale: Scale, y: float) -> list[str]:
    if estimate.value is None or not math.isfinite(estimate.value):
        return []
    kind = "ring" if estimate.is_baseline else "dot"
    parts = []
    if len(ends := finite([estimate.low, estimate.high])) == 2:
        low, high = (scale.at(end) for end in ends)
        path = f"M{low:.1f} {y - 6:.1f}v12m0-6H{high:.1f}m0-6v12"
        parts.append(element("path", {"class": f"interval {kind}-interval", "d": path}))
    parts.append(element("circle", {"class": kind, "cx": scale.at(estimate.value), "cy": y, "r": 4.5}))
    return parts


# -- bars ---------------------------------------------------------------------------------------------------------------------


def bar_chart(
    bars: Sequence[tuple[str, float | None]],
    title: str,
    *,
    number: Callable[[float], str] = short,
    width: int = WIDE,
) -> str:
    """Draw horizontal bars from zero, such as the rows of each length or the seconds of each stage.

    Args:
        bars: Label and value from the top down; those after the 60th are counted only.
        number: Format of a value.
        width: Pixels.
    """
    if not bars:
        return empty(title, width)
    shown = bars[:_MAX_BARS]
    labels = [number(value) if value is not None and math.isfinite(value) else "no value" for _, value in shown]
    names_width = _names_width([label for label, _ in shown], width)
    values_width = max(width_em(label) for label in labels) * FONT + 10
    highest = max((value for value in finite(value for _, value in shown)), default=0)
    scale = Scale(0, highest if highest > 0 else 1, names_width + 8, width - values_width)
    row, top = 22, 4
    parts = []
    for index, ((label, value), words) in enumerate(zip(shown, labels, strict=True)):
        y = top + row * index
        length = scale.at(value) - scale.start if value is not None and math.isfinite(value) else 0
        parts.append(text(names_width, y + 15, label, "name end", names_width))
        if length > 0:
            box: dict[str, float | str] = {
                "class": "bar",
                "x": scale.start,
                "y": y + 4,
                "width": max(length, 1),
                "height": row - 8,
            }
            parts.append(element("rect", box))
        parts.append(text(scale.start + length + 6, y + 15, words, "value"))
    bottom = top + row * len(shown)
    parts.append(line(scale.start, top, scale.start, bottom, "axis"))
    if len(bars) > len(shown):
        bottom += row
        parts.append(text(scale.start, bottom - 7, f"and {len(bars) - len(shown):,} more", "tick"))
    described = "; ".join(f"{label}: {words}" for (label, _), words in zip(shown, labels, strict=True))
    return image(width, bottom + 4, parts, title, described, "bar-chart")


# -- heat map -----------------------------------------------------------------------------------------------------------------


def heat_map(
    counts: Sequence[Sequence[int]], expected: Sequence[str], answers: Sequence[str], title: str, *, width: int = WIDE
) -> str:
    """Draw a confusion matrix: expected labels down, answers across, the darker the larger the share of its row.

    Args:
        counts: (L, M) rows of each expected label, by their answer.
        expected: (L,) labels.
        answers: (M,) labels, and names of other answers.
        title: Such as the name of the model.
        width: Pixels, at most.
    """
    if not any(map(any, counts)):
        return empty(title, width)
    columns = len(answers)
    names_width = _names_width(expected, width)
    cell = min((width - names_width) // columns, 64)
    height = max(min(cell, 34), 18)
    heading_width = max(map(width_em, answers)) * FONT
    tilted = heading_width > cell - 4
    top = 22 + (min(heading_width, _TILTED_ROOM) if tilted else 16)
    parts = [text(0, 12, "expected ↓  answer →", "tick")]
    for index, label in enumerate(answers):
        x = names_width + cell * (index + 0.5)
        if tilted:
            turned = f"translate({x + 4:.1f} {top - 6:.1f}) rotate(-90)"
            parts.append(element("g", {"transform": turned}, text(0, 0, label, "name", _TILTED_ROOM)))
        else:
            parts.append(text(x, top - 6, label, "name middle"))
    for index, label in enumerate(expected):
        parts.append(text(names_width - 8, top + height * (index + 0.5) + 4.5, label, "name end", names_width - 8))
    parts += _cells(counts, names_width, top, cell, height)
    correct = {(i, answers.index(label)) for i, label in enumerate(expected) if label in answers}
    outline = "".join(_box(names_width + cell * j, top + height * i, cell, height) for i, j in sorted(correct))
    parts.append(element("path", {"class": "diagonal", "d": outline}))
    total, correct_count = sum(map(sum, counts)), sum(counts[i][j] for i, j in correct)
    confused = [
        f"{expected[i]} answered as {answers[j]}: {count}"
        for i, row in enumerate(counts)
        for j, count in enumerate(row)
        if count and (i, j) not in correct
    ]
    described = "; ".join([f"{correct_count:,} of {total:,} rows on the diagonal, which is right", *confused])
    return image(max(names_width + cell * columns + 1, 150), top + height * len(counts) + 2, parts, title, described)


def _cells(counts: Sequence[Sequence[int]], left: float, top: float, width: float, height: float) -> list[str]:
    """Return one path for each shade, and the counts if the cells have room for all."""
    paths: dict[int, str] = {}
    numbers = []
    has_room = all(width_em(_count(count)) * FONT <= width for row in counts for count in row)
    for i, row in enumerate(counts):
        for j, count in enumerate(row):
            shade = math.ceil(_SHADES * count / sum(row)) if count else 0
            x, y = left + width * j, top + height * i
            paths[shade] = paths.get(shade, "") + _box(x, y, width, height)
            if count and has_room:
                numbers.append(text(x + width / 2, y + height / 2 + 4.5, _count(count), "middle"))
    return [
        element("path", {"class": "cell", "fill-opacity": f"{_DARKEST * shade / _SHADES:.2f}", "d": d})
        for shade, d in sorted(paths.items())
    ] + numbers


def _count(count: int) -> str:
    return str(count) if count < 1000 else f"{count / 1000:.0f}k"


def _box(x: float, y: float, width: float, height: float) -> str:
    return f"M{x:.0f} {y:.0f}h{width:.0f}v{height:.0f}h-{width:.0f}z"


# -- parts --------------------------------------------------------------------------------------------------------------------


def _names_width(names: Sequence[str], width: float) -> float:
    return min(max(width_em(name[:100]) for name in names) * FONT + 8, width * _LABEL_SHARE)


def empty(title: str, width: float) -> str:
    """Return an image that says that there is nothing to draw."""
    return image(width, 40, [text(0, 24, "no data", "tick")], title, "no data", "no-data")
