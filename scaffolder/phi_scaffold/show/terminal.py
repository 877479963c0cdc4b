"""Consoles and tables."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from phi_scaffold.show.inert import raw

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

STATE_STYLES = {
    **dict.fromkeys(("cached", "deleted", "done", "complete"), "green"),
    **dict.fromkeys(("stale", "interrupted", "pruned"), "yellow"),
    "failed": "red",
    "running": "cyan",
    "missing": "dim",
}
"""Styles of the states of stages, runs and trials."""
_PIPED_WIDTH = 240  # tables use as much of it as they need; a file or a pipe has no edge to wrap at


def console(stderr: bool = False) -> Console:
    """Return a console for results, or with `stderr` for progress and warnings."""
    from rich.console import ConsoleDimensions

    from phi_scaffold.show.inert_console import InertConsole

    stream = raw(sys.stderr if stderr else sys.stdout)
    if stream.isatty():
        # With NO_COLOR, rich (15) omits colors but not bold and dim.
        no_color = bool(os.environ.get("NO_COLOR"))
        out = InertConsole(file=stream, stderr=stderr, highlight=False, color_system=None if no_color else "auto")
        if out.is_dumb_terminal:  # which rich takes to have 80 columns
            out.size = ConsoleDimensions(*shutil.get_terminal_size())
        return out
    return InertConsole(file=stream, stderr=stderr, highlight=False, soft_wrap=True, width=_PIPED_WIDTH)


def table(*columns: str, title: str | None = None) -> Table:
    """Return an empty table without borders. `>` before a name aligns its column to the right, `!` keeps it from wrapping."""
    from phi_scaffold.show.tables import WholeTable

    result = WholeTable(title=title, title_justify="left", box=None, pad_edge=False)
    for column in columns:
        name = column.lstrip(">!")
        flags = column.removesuffix(name)
        result.add_column(name, justify="right" if ">" in flags else "left", no_wrap="!" in flags)
    return result


def fitting_table(columns: Mapping[str, Sequence[str]], out: Console) -> Table:
    """Return a table of as many leading columns as fit on the console, and at least of the first two.

    Args:
        columns: Cells by the name of their column, as in `table`. Ids lose their owner if all columns fit then, or if three
            do not fit otherwise.
        out: The console that it is printed on.
    """
    short = {name: [c.rpartition("/")[2] if "!" in name else c for c in cells] for name, cells in columns.items()}
    wide = out.options.update(width=1000)
    every = len(columns)
    for cells_of, count in (
        (columns, every),
        (short, every),
        *((columns, count) for count in range(every - 1, 2, -1)),
        *((short, count) for count in range(every - 1, 1, -1)),
    ):
        names = list(columns)[:count]
        result = table(*names)
        for cells in zip(*(cells_of[name] for name in names), strict=True):
            result.add_row(*cells)
        if out.measure(result, options=wide).maximum <= out.width:
            return result
    return result


def prose(text: str | Text, out: Console | None = None, *, hanging: int = 0) -> None:
    """Print sentences: on a terminal with line breaks between words, elsewhere unchanged.

    Args:
        text: The sentences. Markup is not read.
        out: The console; that of results if None.
        hanging: Columns by which the lines after the first are indented.
    """
    from rich.text import Text

    from phi_scaffold.show.tables import in_words

    out = out or console()
    text = Text(text) if isinstance(text, str) else text
    for line in in_words(text, out.width, hanging=hanging) if out.is_terminal else [text]:
        out.print(line, soft_wrap=True)


def note(text: str, *, hanging: int = 0) -> None:
    """Print a line on stderr, dim on a terminal; `hanging` as in `prose`."""
    if sys.stderr.isatty():
        from rich.text import Text

        prose(Text(text, "dim"), console(stderr=True), hanging=hanging)
    else:
        print(text, file=sys.stderr)


class SafeText:
    """Removes from streamed text what a terminal would obey: escape sequences and control characters.

    What may become an escape sequence is buffered until it is complete.
    """

    _SEQUENCE = re.compile(r"(?:\x1b\[|\x9b)[0-?]{0,40}[ -/]{0,4}[@-~]")
    _INCOMPLETE = re.compile(r"(?:\x1b(?:\[|$)|\x9b)[0-?]{0,40}[ -/]{0,4}$")
    _CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")

    def __init__(self) -> None:
        self._buffer = ""

    def push(self, text: str) -> str:
        """Add the next text, and return what can be printed."""
        text = self._SEQUENCE.sub("", self._buffer + text)
        match = self._INCOMPLETE.search(text)
        end = match.start() if match else len(text)
        self._buffer = text[end:]
        return self._CONTROL.sub("", text[:end])

    def flush(self) -> str:
        """Return the buffered text at the end."""
        text, self._buffer = self._buffer, ""
        return self._CONTROL.sub("", text)
