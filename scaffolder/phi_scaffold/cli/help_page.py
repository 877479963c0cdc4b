"""Help pages as wide as the terminal: lines break between words, and in a narrow one each meaning is below its option."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Sequence

from typer._click.core import Context  # no public names; typer is pinned
from typer._click.formatting import HelpFormatter

_NARROW = 60  # columns below which options and their meanings do not fit side by side
_LEAST = 20


class HelpPage(HelpFormatter):
    """The help of a command. That of click is at least 50 columns wide, and breaks `phi-scaffold` at its hyphen."""

    def __init__(self, indent_increment: int = 2, width: int | None = None, max_width: int | None = None) -> None:
        columns = shutil.get_terminal_size().columns
        super().__init__(indent_increment, width or max(min(columns, max_width or 80) - 2, _LEAST))

    def write_usage(self, prog: str, args: str = "", prefix: str | None = None) -> None:
        """Write the usage line."""
        usage = f"{'Usage: ' if prefix is None else prefix}{prog} "
        indent = " " * (len(usage) if self.width >= len(usage) + _LEAST else 4)
        self._wrapped(f"{usage}{args}", indent, first_indent="")

    def write_text(self, text: str) -> None:
        """Write paragraphs, which an empty line separates."""
        for number, paragraph in enumerate(text.split("\n\n")):
            self.write("\n" * bool(number))
            self._wrapped(" ".join(paragraph.split()), " " * self.current_indent)

    def write_dl(self, rows: Sequence[tuple[str, str]], col_max: int = 30, col_spacing: int = 2) -> None:
        """Write options, arguments or commands with their meanings."""
        indent = " " * self.current_indent
        widest = max(len(name) for name, _ in rows)
        side_by_side = self.current_indent + min(widest, col_max) + col_spacing
        for name, meaning in rows:
            first = f"{indent}{name}"
            longest_word = max(map(len, meaning.split()), default=0)
            stacked = self.width < max(_NARROW, side_by_side + longest_word)
            column = self.current_indent + 4 if stacked else side_by_side
            if stacked or len(first) + col_spacing > column:
                self._wrapped(first.strip(), f"{indent}    ", first_indent=indent)
                first = ""
            self._wrapped(" ".join(meaning.split()), " " * column, first_indent=first.ljust(column))

    def _wrapped(self, text: str, indent: str, *, first_indent: str | None = None) -> None:
        lines = textwrap.wrap(
            text,
            self.width,
            initial_indent=indent if first_indent is None else first_indent,
            subsequent_indent=indent,
            break_long_words=False,
            break_on_hyphens=False,
        )
        self.write("".join(f"{line}\n" for line in lines))


class HelpContext(Context):
    """The context of a command, with its help as a `HelpPage`."""

    formatter_class = HelpPage
