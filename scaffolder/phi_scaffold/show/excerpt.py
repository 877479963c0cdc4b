"""The line of a file that an error is about, with carets below the word at its column."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

from phi_runtime.core.errors import Location
from phi_runtime.core.secrets import masked

_TAB = 4
_REACH = 2_000  # characters on each side of the column that are looked at: more than a terminal shows
_WORD = re.compile(r""""(?:[^"\\]|\\.)*"|'[^']*'|[^\s,:\[\]{}"']+|.""")
_HUB_TOKEN = re.compile(r"hf_\w+")


def excerpt(where: Location, width: int) -> tuple[str, str] | None:
    """Return the line at `where`, cut around its column to `width` cells, and the line of carets below it.

    None if `where` is a file as a whole, or the line cannot be read. Secrets are masked.
    """
    line = _line(where) if where.line else None
    if line is None:
        return None
    start = max(where.column - 1, 0)
    skipped = max(start - _REACH, 0)
    line, start, cut = line[skipped : start + _REACH], start - skipped, start + _REACH < len(line)
    line = masked(_HUB_TOKEN.sub(lambda token: "*" * len(token.group()), line))
    match = _WORD.match(line, start)
    end = match.end() if match else start + 1
    gutter = f"{where.line:>5} | "
    first, last = _window(line, start, width - len(gutter))
    left, right = "…" if first or skipped else "", "…" if last < len(line) or cut else ""
    text, carets_at, carets = left, len(left), 0
    for index in range(first, last):
        cells = _cells(line[index], carets_at + carets)
        if index < start:
            carets_at += cells
        elif index < end:
            carets += cells
        text += " " * cells if line[index] == "\t" else line[index] if line[index].isprintable() else "�"
    empty = f"{'':>5} | "
    return gutter + (text + right).rstrip(), f"{empty}{' ' * carets_at}{'^' * max(carets, 1)}"


def _line(where: Location) -> str | None:
    try:
        with Path(where.path).open(encoding="utf-8-sig") as lines:
            line = next(itertools.islice(lines, where.line - 1, None), None)
    except (OSError, ValueError):  # no such file, or one that is not text
        return None
    return None if line is None else line.rstrip("\n")


def _window(line: str, start: int, room: int) -> tuple[int, int]:
    """Return the part of `line` that fits into `room` cells: all of it, or the surroundings of `start`, more after than before."""

    def span(first: int, last: int) -> int:
        return sum(_cells(char, 0) for char in line[first:last])

    if len(line) <= room and span(0, len(line)) <= room:
        return 0, len(line)
    room -= 2  # an ellipsis on each side
    last = min(start + room, len(line))
    while last > start and span(start, last) > room * 2 // 3:
        last -= 1
    first = max(last - room, 0)
    while first < start and span(first, last) > room:
        first += 1
    last = min(first + room, len(line))
    while last > start and span(first, last) > room:
        last -= 1
    return first, last


def _cells(char: str, column: int) -> int:
    """Return the cells of a terminal that `char` takes at `column`."""
    if char == "\t":
        return _TAB - column % _TAB
    if char.isascii() or not char.isprintable():
        return 1
    from rich.cells import cell_len

    return cell_len(char)
