"""Read JSON (RFC 8259) with comments (`//`, `/* */`) and trailing commas, as VS Code writes them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, NoReturn

from phi_runtime.config.reading.json_errors import (
    Fault,
    colon_fault,
    escape_fault,
    file_fault,
    key_fault,
    separator_fault,
    string_fault,
    trailing_fault,
    value_fault,
)
from phi_runtime.config.reading.source import KeyPath, Reading, Source
from phi_runtime.core.errors import ConfigError

_BLANK = re.compile(r"(?:[ \t\r\n]+|//[^\n]*|/\*.*?\*/)*", re.DOTALL)
_COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)
_STRING = re.compile(r'"[^"\\\x00-\x1f]*(?:\\.[^"\\\x00-\x1f]*)*"')
_ATOM = re.compile(r"[^\s,:\[\]{}/\"]+")
_SURROGATE = re.compile("[\ud800-\udfff]")


def read_json(path: Path, text: str) -> Source:
    """Parse JSON. Raises ConfigError at the first syntax error."""
    parser = _Parser(path, text)
    return parser.reading.source(parser.document())


class _Parser:
    def __init__(self, path: Path, text: str) -> None:
        self.text, self.at = text, 0
        self.reading = Reading(path, text)

    def error(self, fault: Fault, offset: int | None = None) -> ConfigError:
        message, fix = fault
        return self.reading.error(message, self.at if offset is None else offset, fix)

    def skip(self) -> str:
        """Skip blanks and comments; return the next character, or '' at the end."""
        match = _BLANK.match(self.text, self.at)
        assert match  # the pattern also matches an empty string
        if "/" in match.group():
            for comment in _COMMENT.finditer(self.text, self.at, match.end()):
                self.reading.comment(_comment_text(comment.group()), comment.start())
        self.at = match.end()
        if self.text.startswith("/*", self.at):
            raise self.error(("this comment is never closed", "add `*/`"))
        return self.text[self.at : self.at + 1]

    def document(self) -> Any:
        if not self.skip():
            raise self.reading.error("the file is empty", 0, "write settings into it")
        if fault := file_fault(self.text, self.at):
            raise self.error(fault)
        value = self.entry((), self.at)
        if self.skip():
            raise self.error(trailing_fault(self.text, self.at))
        return value

    def entry(self, key_path: KeyPath, start: int) -> Any:
        """Return the next value; its entry begins at `start`, the position of its key or of the value itself."""
        self.reading.begin(key_path, start, start)
        self.reading.spans[key_path] = (start, start)  # reserves its position before its children
        value = self.value(key_path, self.skip())
        self.reading.spans[key_path] = (start, self.at)
        return value

    def value(self, key_path: KeyPath, char: str) -> Any:
        if char == "{":
            return self.members(key_path)
        if char == "[":
            return self.items(key_path)
        if char == '"':
            return self.string()
        match = _ATOM.match(self.text, self.at)
        if not match:
            raise self.error(value_fault(self.text, self.at))
        try:
            value = json.loads(match.group(), parse_constant=_not_json)
        except ValueError:
            raise self.error(value_fault(self.text, self.at)) from None
        self.at = match.end()
        return value

    def string(self) -> str:
        match = _STRING.match(self.text, self.at)
        if not match:
            raise self.error(string_fault(self.text, self.at))
        try:
            value: str = json.loads(match.group())
        except ValueError as e:
            raise self.error(escape_fault(str(e).partition(":")[0])) from None
        if _SURROGATE.search(value):
            # Such text cannot be written to a file.
            raise self.error(("bad escape in this string (half of a surrogate pair)", "write the character itself"))
        self.at = match.end()
        return value

    def members(self, key_path: KeyPath) -> dict[str, Any]:
        start = self.at
        members: dict[str, Any] = {}
        self.at += 1
        while (char := self.skip()) != "}":
            if char != '"':
                raise self.error(key_fault(self.text, self.at)) if char else self.never_closed(start)
            key_at = self.at
            key = self.string()
            if key in members:
                message = f"duplicate key `{key[:40]}`"
                raise self.reading.error(message, key_at, "remove one of the two")
            end = self.at
            if (char := self.skip()) != ":":
                fault = colon_fault(self.text, self.at, key)
                raise self.error(fault, None if char == "=" else end)
            self.at += 1
            members[key] = self.entry((*key_path, key), key_at)
            self.separator("}", start)
        self.at += 1
        return members

    def items(self, key_path: KeyPath) -> list[Any]:
        start = self.at
        items: list[Any] = []
        self.at += 1
        while (char := self.skip()) != "]":
            if not char:
                raise self.never_closed(start)
            items.append(self.entry((*key_path, len(items)), self.at))
            self.separator("]", start)
        self.at += 1
        return items

    def separator(self, closing: str, start: int) -> None:
        end = self.at
        char = self.skip()
        if char == ",":
            self.at += 1
        elif not char:
            raise self.never_closed(start)
        elif char != closing:
            raise self.error(*separator_fault(self.text, end, self.at, start))

    def never_closed(self, start: int) -> ConfigError:
        opening = self.text[start]
        return self.error(
            (f"this `{opening}` is never closed", f"add the missing `{'}' if opening == '{' else ']'}`"), start
        )


def _not_json(name: str) -> NoReturn:
    raise ValueError(name)  # only Python's json accepts NaN and Infinity


def _comment_text(raw: str) -> str:
    if raw.startswith("//"):
        return raw[2:].strip()
    first, *others = (line.strip() for line in raw[2:-2].strip("*").splitlines() or [""])
    if all(line.startswith("*") for line in others if line):
        others = [line[1:].strip() for line in others]  # the column of stars that editors put before each line
    return "\n".join([first, *others]).strip()
