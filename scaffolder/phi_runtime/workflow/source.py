"""JSON that remembers where each value stands, so that a finding can point at it.

Comments (`//`, `/* */`) and trailing commas are taken, as VS Code writes them. Grammar: RFC 8259.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from phi_runtime.errors import ConfigError, Location

KeyPath = tuple[str | int, ...]

_BLANK = re.compile(r"(?:[ \t\r\n]+|//[^\n]*|/\*.*?\*/)*", re.DOTALL)
_STRING = re.compile(r'"(?:[^"\\\x00-\x1f]|\\.)*"')
_ATOM = re.compile(r"[^\s,\]}/\"]+")
_DEEPEST = 100


@dataclass(frozen=True)
class Source:
    """A parsed file. `places` maps a path of keys to the offset of its key (of its value, for list items)."""

    path: Path
    text: str
    value: Any
    places: dict[KeyPath, int] = field(repr=False)

    def locate(self, key_path: KeyPath) -> Location:
        """Where `key_path` stands; the nearest enclosing value when it does not exist."""
        while key_path and key_path not in self.places:
            key_path = key_path[:-1]
        return _location(self.path, self.text, self.places.get(key_path, 0))


def _location(path: Path, text: str, offset: int) -> Location:
    line = text.count("\n", 0, offset) + 1
    return Location(path, line, offset - text.rfind("\n", 0, offset))


def read_source(path: Path) -> Source:
    """Reads a JSON file. Raises ConfigError with the place of the first syntax error."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as e:
        raise ConfigError(f"not UTF-8 text (byte {e.start})", where=Location(path), fix="save the file as UTF-8") from e
    except OSError as e:
        raise ConfigError(f"cannot be read: {e.strerror}", where=Location(path)) from e
    parser = _Parser(path, text)
    return Source(path, text, parser.whole(), parser.places)


class _Parser:
    def __init__(self, path: Path, text: str) -> None:
        self.path, self.text, self.at = path, text, 0
        self.places: dict[KeyPath, int] = {}

    def fail(self, message: str, offset: int | None = None) -> ConfigError:
        where = _location(self.path, self.text, self.at if offset is None else offset)
        return ConfigError(message, where=where, fix="mend the JSON there")

    def skip(self) -> str:
        """Skips blanks and comments; the character that follows, '' at the end."""
        match = _BLANK.match(self.text, self.at)
        self.at = match.end() if match else self.at
        return self.text[self.at : self.at + 1]

    def whole(self) -> Any:
        value = self.one(())
        if self.skip():
            raise self.fail("something follows the end of the JSON value")
        return value

    def one(self, key_path: KeyPath) -> Any:
        char = self.skip()
        self.places.setdefault(key_path, self.at)
        if len(key_path) > _DEEPEST:
            raise self.fail(f"nested more than {_DEEPEST} levels deep")
        if char == "{":
            return self.members(key_path)
        if char == "[":
            return self.items(key_path)
        if char == '"':
            return self.string()
        match = _ATOM.match(self.text, self.at)
        if not match:
            raise self.fail(
                "the file ends in the middle of a value" if not char else f"a value is expected, not `{char}`"
            )
        try:
            value = json.loads(match.group())
        except ValueError:
            raise self.fail(f"`{match.group()[:40]}` is not a JSON value") from None
        self.at = match.end()
        return value

    def string(self) -> str:
        match = _STRING.match(self.text, self.at)
        if not match:
            raise self.fail("this string does not end on its line")
        try:
            value: str = json.loads(match.group())
        except ValueError as e:
            raise self.fail(f"bad escape in this string ({e})") from None
        self.at = match.end()
        return value

    def members(self, key_path: KeyPath) -> dict[str, Any]:
        start, found = self.at, {}
        self.at += 1
        while (char := self.skip()) != "}":
            if char != '"':
                raise self.fail(
                    "a key in double quotes is expected" if char else "this `{` is never closed",
                    None if char else start,
                )
            key_at = self.at
            key = self.string()
            if key in found:
                raise self.fail(f"the key `{key}` stands here for the second time", key_at)
            if self.skip() != ":":
                raise self.fail(f"a `:` is expected after the key `{key}`")
            self.at += 1
            self.places[(*key_path, key)] = key_at
            found[key] = self.one((*key_path, key))
            self.separator("}", start)
        self.at += 1
        return found

    def items(self, key_path: KeyPath) -> list[Any]:
        start = self.at
        found: list[Any] = []
        self.at += 1
        while self.skip() != "]":
            found.append(self.one((*key_path, len(found))))
            self.separator("]", start)
        self.at += 1
        return found

    def separator(self, closing: str, start: int) -> None:
        char = self.skip()
        if char == ",":
            self.at += 1
        elif char != closing:
            opening = self.text[start]
            raise self.fail(
                f"a `,` or `{closing}` is expected here" if char else f"this `{opening}` is never closed",
                None if char else start,
            )
