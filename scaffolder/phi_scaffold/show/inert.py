r"""Output that a terminal shows and does not obey: escape sequences in data, keys, file names and answers appear as `\x1b`."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

_STYLE = r"\x1b\[[0-9;]*m"
# Control characters but for tab and line breaks, and those that reorder text (https://trojansource.codes).
_ACTIVE = "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]|\r(?!\n)"
# In names, and not in answers, whose languages may need them. Joiners (U+200C, U+200D) are part of words and emoji.
_INVISIBLE = "[\u061c\u200b\u200e\u200f\u2028\u2029\u2060-\u2064\ufeff]"
_ACTIVE_NAME = re.compile(f"{_ACTIVE}|{_INVISIBLE}")
_ACTIVE_TEXT = re.compile(_ACTIVE)
_ACTIVE_BUT_STYLES = re.compile(f"(?P<style>{_STYLE})|{_ACTIVE}")


def inert(text: str) -> str:
    r"""Return `text` with each control and each invisible character as its code: `\x1b`, `\u202e`, `\u200b`."""
    return _ACTIVE_NAME.sub(_code, text)


def _code(match: re.Match[str]) -> str:
    if "style" in match.re.groupindex and match["style"]:
        return match[0]
    number = ord(match[0])
    return f"\\x{number:02x}" if number < 0x80 else f"\\u{number:04x}"  # the latter also in JSON


class InertStream:
    """A text stream that writes control characters as their codes.

    On a terminal, colors pass: those of the help, whose styles are part of the text.
    """

    def __init__(self, stream: TextIO) -> None:
        self.wrapped = stream
        self.reader_left = False

    def write(self, text: str) -> int:
        active = _ACTIVE_BUT_STYLES if self.wrapped.isatty() else _ACTIVE_TEXT
        with self._noting_who_left():
            self.wrapped.write(active.sub(_code, text))
        return len(text)

    def flush(self) -> None:
        with self._noting_who_left():
            self.wrapped.flush()

    @contextmanager
    def _noting_who_left(self) -> Iterator[None]:
        try:
            yield
        except BrokenPipeError:
            self.reader_left = True
            raise

    def writelines(self, lines: list[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.wrapped, name)


def raw(stream: Any) -> TextIO:
    """Return the stream under an InertStream, for output that has control characters of its own."""
    inner: TextIO = getattr(stream, "wrapped", stream)
    return inner


@contextmanager
def inert_output() -> Iterator[None]:
    """Make stdout and stderr inert."""
    before = sys.stdout, sys.stderr
    for name in ("stdout", "stderr"):
        setattr(sys, name, InertStream(getattr(sys, name)))
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before
