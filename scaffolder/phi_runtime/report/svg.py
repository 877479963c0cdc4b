"""Elements of an SVG image that is part of an HTML page, whose style sheet gives it its colors."""

from __future__ import annotations

from collections.abc import Iterable

from phi_runtime.report.text import escaped, fitted

FONT = 13  # pixels; style.css has the same
_LONGEST_TITLE, _LONGEST_DESC = 160, 600  # characters


def image(width: float, height: float, parts: Iterable[str], title: str, desc: str, kind: str = "") -> str:
    """Return the image; `title` and `desc` are what a screen reader reads."""
    names = f"<title>{_limited(title)}</title><desc>{_limited(desc, _LONGEST_DESC)}</desc>"
    size = f'viewBox="0 0 {_number(width)} {_number(height)}" width="{_number(width)}" height="{_number(height)}"'
    classes = f"chart {kind}".strip()
    return f'<svg xmlns="http://www.w3.org/2000/svg" class="{classes}" role="img" {size}>{names}{"".join(parts)}</svg>'


def element(name: str, attributes: dict[str, float | str], content: str = "") -> str:
    """Return an element; `content` is SVG already."""
    values = "".join(
        f' {key}="{escaped(value) if isinstance(value, str) else _number(value)}"' for key, value in attributes.items()
    )
    return f"<{name}{values}>{content}</{name}>" if content else f"<{name}{values}/>"


def line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    """Return a straight line of the CSS class `kind`."""
    return element("path", {"class": kind, "d": f"M{_number(x1)} {_number(y1)}L{_number(x2)} {_number(y2)}"})


def polyline(points: Iterable[tuple[float, float]], kind: str) -> str:
    """Return straight lines from point to point."""
    return element("path", {"class": kind, "d": "M" + "L".join(f"{_number(x)} {_number(y)}" for x, y in points)})


def dots(points: Iterable[tuple[float, float]], kind: str) -> str:
    """Return round dots as one path: the ends of lines without length."""
    return element("path", {"class": kind, "d": "".join(f"M{_number(x)} {_number(y)}h0" for x, y in points)})


def diamond(x: float, y: float, radius: float, kind: str, title: str = "") -> str:
    """Return a diamond around a point; `title` appears under a pointer."""
    path = f"M{_number(x)} {_number(y - radius)}l{radius} {radius}l-{radius} {radius}l-{radius}-{radius}z"
    return element("path", {"class": kind, "d": path}, _title(title))


def text(x: float, y: float, words: str, kind: str = "", room: float | None = None) -> str:
    """Return a line of text.

    Args:
        kind: CSS classes; `end` and `middle` align the text at `x`.
        room: Pixels that it has; a longer one ends with an ellipsis, and its title is the whole.
    """
    shown = words if room is None else fitted(words, room / FONT)
    whole = words if room is not None and shown.endswith("…") and shown != words else ""
    attributes: dict[str, float | str] = {"x": x, "y": y} | ({"class": kind} if kind else {})
    return element("text", attributes, (escaped(shown) or " ") + _title(whole))


def _title(words: str) -> str:
    return f"<title>{_limited(words)}</title>" if words else ""


def _limited(words: str, limit: int = _LONGEST_TITLE) -> str:
    return escaped(words if len(words) <= limit else f"{words[: limit - 1]}…") or " "


def _number(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")
