"""Messages and commands from stdin: with line editing on a terminal, one a line elsewhere."""

from __future__ import annotations

import io
import os
import re
import sys
from dataclasses import dataclass

from phi_runtime.core.errors import UsageError

QUOTES = '"""'
_CONTINUED = "... "
# A message, or the argument of a command, that starts with three quotation marks.
_QUOTED = re.compile(rf"(/\w+\s+)?{QUOTES}(.*)", re.DOTALL)
_PASTE_GAP_S = 0.02  # between the lines of a paste


@dataclass(frozen=True)
class Entry:
    """A message, or a command with its argument as `text`. An empty line is a message without text."""

    text: str
    command: str = ""


def accept_wrong_bytes() -> None:
    """Read bytes of stdin that are not text, so that `check_text` reports them for their line alone."""
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")


def check_text(text: str) -> None:
    """Raise UsageError if an argument or a line of stdin has bytes that are not text."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UsageError("the message is not UTF-8 text", fix="convert it to UTF-8") from None


class Reader:
    """Reads entries from stdin.

    Several lines are one entry between three quotation marks, after a backslash at the end of a line, or as a paste. What
    begins with a slash is a command; two slashes begin a message with one.
    """

    def __init__(self) -> None:
        self.interactive = sys.stdin.isatty()
        self._joins_pastes = self.interactive and not _edit_lines()
        accept_wrong_bytes()

    def read(self, label: str) -> Entry:
        """Return the next entry, with the prompt `label` on a terminal.

        Raises:
            EOFError: The input has ended.
            UsageError: The message is not text, or its three quotation marks are not closed.
        """
        text = self._line(label)
        if match := _QUOTED.fullmatch(text.strip()):
            command, text = match[1] or "", self._quoted(match[2])
        else:
            while text.endswith("\\"):
                text = f"{text[:-1]}\n{self._next_line()}"
            command, text = "", text.strip()
        check_text(text)
        if command:
            return Entry(text, command.strip()[1:])
        if match or not text.startswith("/"):
            return Entry(text)
        if text.startswith("//"):
            return Entry(text[1:])
        if text == "/":
            return Entry("", "help")
        name, *argument = text[1:].split(maxsplit=1)
        return Entry("".join(argument), name)

    def _quoted(self, text: str) -> str:
        """Return the text up to the closing quotation marks, of which `text` is the first line."""
        while QUOTES not in text:
            try:
                text += "\n" + self._line(_CONTINUED)
            except EOFError:
                raise UsageError(f"the message lacks its closing `{QUOTES}`", fix=f"end it with {QUOTES}") from None
        text, _, after = text.partition(QUOTES)
        if after.strip():
            raise UsageError(f"text follows the closing `{QUOTES}`", fix=f"end the message with {QUOTES}")
        return text.removeprefix("\n").removesuffix("\n")

    def _next_line(self) -> str:
        try:
            return self._line(_CONTINUED)
        except EOFError:
            return ""

    def _line(self, label: str) -> str:
        """Return the next line, with those that were pasted with it."""
        text = self._input(label)
        while self._joins_pastes and _more_was_pasted():
            text += "\n" + self._input("")
        return text

    def _input(self, label: str) -> str:
        if self.interactive and sys.stdout.isatty():
            return input(label)  # edits lines with readline
        if self.interactive:
            print(label, end="", file=sys.stderr, flush=True)
        line = sys.stdin.readline()
        if not line:
            raise EOFError
        return line.removesuffix("\n")


def _edit_lines() -> bool:
    """Turn on line editing, with a history in memory alone; return False if it reads the lines of a paste one by one."""
    try:
        import readline
    except ImportError:  # Windows, whose console edits lines itself
        return os.name != "nt"
    if "libedit" in (readline.__doc__ or ""):
        return False
    if os.environ.get("TERM", "dumb") != "dumb":
        readline.parse_and_bind("set enable-bracketed-paste on")  # off by default since Python 3.10
    return True


def _more_was_pasted() -> bool:
    """Return True if the next line is there already, faster than anyone types."""
    if os.name == "nt":
        import msvcrt

        return bool(msvcrt.kbhit())  # type: ignore[attr-defined,unused-ignore]
    import select

    return bool(select.select([sys.stdin], [], [], _PASTE_GAP_S)[0])
