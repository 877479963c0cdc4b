"""Tables and sentences in a terminal of any width: no cell is cut, and no word breaks that fits on a line."""

from __future__ import annotations

import re
from collections.abc import Iterator

from rich.cells import cell_len, chop_cells
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

_GAP = 2  # columns between cells


class WholeTable(Table):
    """A table without borders. On a terminal where its words do not fit, each row is a block of lines `column: value`."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        cells = [[_text(console, cell) for cell in (column.header, *column.cells)] for column in self.columns]
        natural = [max(cell.cell_len for cell in column) for column in cells]
        room = options.max_width
        if not console.is_terminal or not cells or sum(natural) + _GAP * (len(cells) - 1) <= room:
            return super().__rich_console__(console, options)
        unbroken = [column.no_wrap for column in self.columns]
        least = [n if u else max(map(_longest_word, c)) for c, n, u in zip(cells, natural, unbroken, strict=True)]
        spare = room - _GAP * (len(cells) - 1) - sum(least)
        if spare < 0:
            return self._blocks(console, cells, room)
        for column, width in zip(self.columns, _shared(least, natural, spare), strict=True):
            column.width = width
        return super().__rich_console__(console, options)

    def _blocks(self, console: Console, cells: list[list[Text]], room: int) -> Iterator[RenderableType]:
        if self.title:
            yield from in_words(_text(console, self.title), room)
        names, rows = [column[0] for column in cells], list(zip(*(column[1:] for column in cells), strict=True))
        for row, values in zip(self.rows, rows, strict=True):
            first, *others = zip(names, values, strict=True)
            name, value = first
            heading = Text.assemble(name, " ", value) if value.plain.isdigit() else value
            yield from in_words(_styled(heading, f"bold {row.style or ''}"), room, cut=True)
            for name, value in others:
                if value.plain:
                    line = Text.assemble("  ", name, ": " * bool(name.plain), value)
                    yield from in_words(_styled(line, str(row.style or "")), room, hanging=2, cut=True)


def in_words(text: Text, room: int, *, hanging: int = 0, cut: bool = False) -> Iterator[Text]:
    """Return lines of at most `room` columns, which break between words and are indented as the first one.

    A word that is longer stays in one piece, so that it can be copied.

    Args:
        text: Sentences, a path or a command.
        room: Columns of a line.
        hanging: Columns by which the lines after the first are indented in addition; at most a fifth of the line.
        cut: Break a word that is longer than a line.
    """
    for paragraph in text.split("\n", allow_blank=True):
        indent = len(paragraph.plain) - len(paragraph.plain.lstrip(" "))
        further = min(hanging, room // 5)
        content, width = paragraph[indent:], max(room - indent - further, 1)
        for number, line in enumerate(content.divide(_breaks(content.plain, width + further, width, cut=cut))):
            line.rstrip()
            yield Text(" " * (indent + (further if number else 0)), overflow="ignore", no_wrap=True).append_text(line)


def _breaks(text: str, first: int, further: int, *, cut: bool) -> Iterator[int]:
    """Return where the lines of `text` begin, but for the first. That of rich cuts words where it breaks none.

    Args:
        text: The text, without line breaks.
        first: Columns of the first line.
        further: Columns of all others.
        cut: Break a word that is longer than `further`.
    """
    width, used = first, 0
    for word in re.finditer(r"\S+\s*", text):
        parts = chop_cells(word[0].rstrip(), further) if cut else [word[0].rstrip()]
        start = word.start()
        for part in parts:
            if used and used + cell_len(part) > width:
                yield start
                width, used = further, 0
            start, used = start + len(part), used + cell_len(part)
        used += word.end() - start


def _shared(least: list[int], natural: list[int], spare: int) -> list[int]:
    """Return the widths of columns: `least`, and the spare columns of the terminal where they save the most lines."""
    widths = list(least)
    for _ in range(spare):
        lines = [-(-n // w) if w < n else 0 for n, w in zip(natural, widths, strict=True)]
        widths[lines.index(max(lines))] += 1 if max(lines) else 0
    return widths


def _longest_word(text: Text) -> int:
    return max(map(cell_len, text.plain.split()), default=0)


def _text(console: Console, cell: RenderableType) -> Text:
    return cell if isinstance(cell, Text) else console.render_str(str(cell))


def _styled(text: Text, style: str) -> Text:
    styled = Text(style=style.strip())
    return styled.append_text(text)
