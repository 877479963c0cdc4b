"""JSON with comments (`//`, `/* */`) and trailing commas, as VS Code writes them. Grammar: RFC 8259."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, NoReturn

from phi_runtime.config.reading.source import KeyPath, Reading, Source
from phi_runtime.core.errors import ConfigError

_BLANK = re.compile(r"(?:[ \t\r\n]+|//[^\n]*|/\*.*?\*/)*", re.DOTALL)
_COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)
_STRING = re.compile(r'"[^"\\\x00-\x1f]*(?:\\.[^"\\\x00-\x1f]*)*"')
_ATOM = re.compile(r"[^\s,:\[\]{}/\"]+")
_SURROGATE = re.compile("[\ud800-\udfff]")


def read_json(path: Path, text: str) -> Source:
    """Parses JSON. Raises ConfigError with the place of the first syntax error."""
    parser = _Parser(path, text)
    return parser.reading.source(parser.whole())


class _Parser:
    def __init__(self, path: Path, text: str) -> None:
        self.text, self.at = text, 0
        self.reading = Reading(path, text)

    def fault(self, message: str, offset: int | None = None) -> ConfigError:
        return self.reading.fault(message, self.at if offset is None else offset, "mend the JSON there")

    def skip(self) -> str:
        """Skips blanks and comments; the character that follows, '' at the end."""
        match = _BLANK.match(self.text, self.at)
        assert match  # it matches nothing at all, too
        if "/" in match.group():
            for comment in _COMMENT.finditer(self.text, self.at, match.end()):
                self.reading.comment(_comment_text(comment.group()), comment.start())
        self.at = match.end()
        if self.text.startswith("/*", self.at):
            raise self.fault("this comment is never closed with `*/`")
        return self.text[self.at : self.at + 1]

    def whole(self) -> Any:
        if not self.skip():
            raise self.reading.fault("the file is empty", 0, "write the settings into it")
        value = self.one((), self.at)
        if self.skip():
            raise self.fault("something follows the end of the JSON value")
        return value

    def one(self, key_path: KeyPath, start: int) -> Any:
        """The next value. `start` is where its entry begins: at its key, or at the value itself."""
        self.reading.begin(key_path, start, start)
        self.reading.spans[key_path] = (start, start)  # holds the place before those of its children
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
            raise self.fault(f"a value is expected, not `{char}`" if char else "the file ends in the middle of a value")
        try:
            value = json.loads(match.group(), parse_constant=_not_json)
        except ValueError:
            raise self.fault(f"`{match.group()[:40]}` is not a JSON value") from None
        self.at = match.end()
        return value

    def string(self) -> str:
        match = _STRING.match(self.text, self.at)
        if not match:
            raise self.fault("this string does not end on its line")
        try:
            value: str = json.loads(match.group())
        except ValueError as e:
            raise self.fault(f"bad escape in this string ({e})") from None
        if _SURROGATE.search(value):
            # Such text could not be written to any file again.
            raise self.fault("bad escape in this string (half of a surrogate pair)")
        self.at = match.end()
        return value

    def members(self, key_path: KeyPath) -> dict[str, Any]:
        start = self.at
        found: dict[str, Any] = {}
        self.at += 1
        while (char := self.skip()) != "}":
            if char != '"':
                raise self.fault(
                    "a key in double quotes is expected" if char else "this `{` is never closed",
                    None if char else start,
                )
            key_at = self.at
            key = self.string()
            if key in found:
                message = f"the key `{key[:40]}` stands here for the second time"
                raise self.reading.fault(message, key_at, "remove one of the two")
            if self.skip() != ":":
                raise self.fault(f"a `:` is expected after the key `{key[:40]}`")
            self.at += 1
            found[key] = self.one((*key_path, key), key_at)
            self.separator("}", start)
        self.at += 1
        return found

    def items(self, key_path: KeyPath) -> list[Any]:
        start = self.at
        found: list[Any] = []
        self.at += 1
        while (char := self.skip()) != "]":
            if not char:
                raise self.fault("this `[` is never closed", start)
            found.append(self.one((*key_path, len(found)), self.at))
            self.separator("]", start)
        self.at += 1
        return found

    def separator(self, closing: str, start: int) -> None:
        char = self.skip()
        if char == ",":
            self.at += 1
        elif char != closing:
            opening = self.text[start]
            raise self.fault(
                f"a `,` or `{closing}` is expected here" if char else f"this `{opening}` is never closed",
                None if char else start,
            )


def _not_json(name: str) -> NoReturn:
    raise ValueError(name)  # Python's json takes NaN and Infinity; no other reader does


def _comment_text(raw: str) -> str:
    if raw.startswith("//"):
        return raw[2:].strip()
    first, *rest = (line.strip() for line in raw[2:-2].strip("*").splitlines() or [""])
    if all(line.startswith("*") for line in rest if line):
        rest = [line[1:].strip() for line in rest]  # the column of stars that editors put before each line
    return "\n".join([first, *rest]).strip()
