"""Read a long JSON text value by value, without holding more than one value in memory."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from phi_runtime.core.errors import DataError, Location
from phi_runtime.data.encodings import FIX as ENCODING_FIX
from phi_runtime.data.files import LIMIT_BYTES
from phi_runtime.data.row import FIX

TOO_LONG = f"this row has more than {LIMIT_BYTES >> 20} MB"
_JSON_SPACE = " \t\n\r"
_NOT_BLANK = re.compile(r"\S")
_LONGEST_WORD = 32  # of JSON outside a string: the end of the window may cut this much
_PYTHON = re.compile(r"'|None\b|True\b|False\b")


class JsonDecoder:
    """A JSON decoder that records `duplicates`: keys that an object of the last value has twice, with different values."""

    def __init__(self) -> None:
        self.duplicates: list[str] = []
        self.json = json.JSONDecoder(object_pairs_hook=self._object)

    def _object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        values = dict(pairs)
        if len(values) != len(pairs):
            self.duplicates += [key for key, value in pairs if values[key] != value]
        return values

    def decode(self, text: str) -> Any:
        try:
            value, end = self.raw_decode(text, 0)
        except ValueError:
            value, end = None, 0
        if end and not text[end:].strip(_JSON_SPACE):
            return value
        self.duplicates = []
        return self.json.decode(text)  # allows white space before a value, and says what is wrong; that takes longer

    def raw_decode(self, text: str, at: int) -> tuple[Any, int]:
        self.duplicates = []
        return self.json.raw_decode(text, at)


def json_fix(text: str, at: int, fix: str) -> str:
    """Return the fix for invalid JSON in `text`: that for Python's notation if it is at `at`, else `fix`."""
    return "write it with Python's json.dumps, not with str" if _PYTHON.match(text, at) else fix


class Window:
    """A sliding window over a long text, with its position in the file."""

    CHUNK = 2**20

    def __init__(self, path: Path, stream: io.BufferedReader) -> None:
        self.path, self.stream = path, io.TextIOWrapper(stream, encoding="utf-8", newline="")
        self.text, self.at, self.line, self.column, self.ended = "", 0, 1, 1, False
        self.decoder = JsonDecoder()

    @property
    def where(self) -> Location:
        return Location(self.path, self.line, self.column)

    def more(self) -> None:
        """Read more, doubling the window if needed, and drop the text before the position."""
        try:
            piece = self.stream.read(max(self.CHUNK, len(self.text) - self.at))
        except UnicodeDecodeError:
            where = Location(self.path, self.line)
            raise DataError("the file is not UTF-8 text from here on", where=where, fix=ENCODING_FIX) from None
        self.text, self.at, self.ended = self.text[self.at :] + piece, 0, not piece

    def go_to(self, at: int) -> None:
        passed = self.text.count("\n", self.at, at)
        self.line += passed
        self.column = at - self.text.rfind("\n", 0, at) if passed else self.column + at - self.at
        self.at = at

    def next(self) -> str:
        """Move to the next character that is not white space, and return it; empty at the end."""
        while True:
            match = _NOT_BLANK.search(self.text, self.at)
            self.go_to(match.start() if match else len(self.text))
            if match:
                return match[0]
            if self.ended:
                return ""
            self.more()

    def step(self) -> str:
        """Step over the character at the position, and return the next one."""
        self.go_to(self.at + 1)
        return self.next()

    def finish(self) -> None:
        """Step over the end of the array, after which nothing may follow."""
        if self.step():
            raise self.error("Extra data after the array")

    def error(self, what: str) -> DataError:
        fix = json_fix(self.text, self.at, "fix the JSON at this position")
        return DataError(f"invalid JSON ({what})", where=self.where, fix=fix)

    def value(self) -> Any:
        """Return the JSON value at the position, and move behind it."""
        where = self.where
        while True:
            try:
                value, end = self.decoder.raw_decode(self.text, self.at)
            except json.JSONDecodeError as e:
                problem, place = e.msg, e.pos
            except ValueError as e:  # a number with too many digits
                raise self.error(str(e)) from None
            except RecursionError:
                raise self.error("nested too deeply") from None
            else:
                if end < len(self.text) or self.ended:
                    self.go_to(end)
                    return value
                problem, place = "", end
            cut = place > len(self.text) - _LONGEST_WORD or problem.startswith("Unterminated string")
            if self.ended or not cut:
                self.go_to(place)
                raise self.error(problem)
            if len(self.text) - self.at > LIMIT_BYTES:
                raise DataError(TOO_LONG, where=where, fix=FIX)
            self.more()

    def elements(self) -> Iterator[str]:
        """Move to each element of the array or object at the position, then to its last bracket.

        The caller moves behind the element. Yields the key of an element of an object; empty in an array.
        """
        closing = {"[": "]", "{": "}"}[self.next()]
        if self.step() == closing:
            return
        while True:
            key = self._key() if closing == "}" else ""
            self.next()
            yield key
            after = self.next()
            if after == closing:
                return
            if after != ",":
                kind = "array" if closing == "]" else "object"
                raise self.error("Expecting ',' delimiter" if after else f"the {kind} has no end")
            self.step()

    def _key(self) -> str:
        if self.next() != '"':
            raise self.error("Expecting property name enclosed in double quotes")
        key: str = self.value()
        if self.next() != ":":
            raise self.error("Expecting ':' delimiter")
        self.step()
        return key

    def skip(self) -> None:
        """Move behind the value at the position, however long it is."""
        if self.next() in ("[", "{"):
            for _ in self.elements():
                self.value()
            self.go_to(self.at + 1)
        else:
            self.value()
