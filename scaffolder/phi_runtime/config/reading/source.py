"""A config file as a value that remembers where everything stands, so that a finding can point at it.

`.yaml` and `.yml` are read as YAML, everything else as JSON with comments; what comes out has the same form.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from phi_runtime.core.errors import ConfigError, Location

KeyPath = tuple[str | int, ...]

DEEPEST = 100
# Aliases let a YAML file of ten lines stand for billions of values (https://en.wikipedia.org/wiki/Billion_laughs_attack).
MOST_VALUES = 100_000


@dataclass(frozen=True)
class Comment:
    """A comment without its markers. `offset` is where its marker stands; `own_line`: only blanks stand before it."""

    text: str
    offset: int
    own_line: bool


@dataclass(frozen=True)
class Source:
    """A parsed file. All offsets count characters of `text`.

    `places` maps a path of keys to its key (to its value, for list items). What comes out of a YAML alias stands where
    the anchor wrote it. `spans` holds, in the order of the file, from where to where an entry reaches (with its key or
    its `-`, up to the end of its value); it knows only what is written out, and knows `<<` as a key.
    """

    path: Path
    text: str
    value: Any
    places: dict[KeyPath, int] = field(repr=False)
    comments: tuple[Comment, ...] = field(default=(), repr=False)
    spans: dict[KeyPath, tuple[int, int]] = field(default_factory=dict, repr=False)

    def locate(self, key_path: KeyPath) -> Location:
        """Where `key_path` stands; the nearest enclosing value when it does not exist."""
        while key_path and key_path not in self.places:
            key_path = key_path[:-1]
        return location(self.path, self.text, self.places.get(key_path, 0))


def read_source(path: Path) -> Source:
    """Reads a JSON or YAML file into plain JSON values. Raises ConfigError with the place of the first syntax error."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as e:
        raise ConfigError(f"not UTF-8 text (byte {e.start})", where=Location(path), fix="save the file as UTF-8") from e
    except OSError as e:
        raise ConfigError(f"cannot be read: {e.strerror}", where=Location(path)) from e
    return parse_source(path, text)


def parse_source(path: Path, text: str) -> Source:
    """The same for a text that is, or is to be, in the file at `path`."""
    if path.suffix.lower() in (".yaml", ".yml"):
        # PyYAML takes longer to import than most configs take to be read; a JSON config does without.
        from phi_runtime.config.reading.yaml_source import read_yaml as read
    else:
        from phi_runtime.config.reading.json_source import read_json as read
    return read(path, text)


class Reading:
    """What a reader has found so far in one file."""

    def __init__(self, path: Path, text: str) -> None:
        self.path, self.text = path, text
        self.places: dict[KeyPath, int] = {}
        self.spans: dict[KeyPath, tuple[int, int]] = {}
        self.comments: list[Comment] = []
        self.count = 0

    def begin(self, key_path: KeyPath, place: int, at: int) -> None:
        """Notes that the value of `key_path` begins. `at` is where the file is just being read."""
        if len(key_path) > DEEPEST:
            raise self.fault(f"nested more than {DEEPEST} levels deep", at)
        self.count += 1
        if self.count > MOST_VALUES:
            raise self.fault(
                f"the file stands for more than {MOST_VALUES:,} values", at, "take away values from here on"
            )
        self.places[key_path] = place

    def comment(self, text: str, offset: int) -> None:
        own_line = not self.text[self.text.rfind("\n", 0, offset) + 1 : offset].strip()
        self.comments.append(Comment(text, offset, own_line))

    def fault(self, message: str, offset: int, fix: str = "") -> ConfigError:
        where = location(self.path, self.text, min(offset, len(self.text)))
        return ConfigError(message, where=where, fix=fix or "mend the file there")

    def source(self, value: Any) -> Source:
        return Source(self.path, self.text, value, self.places, tuple(self.comments), self.spans)


def location(path: Path, text: str, offset: int) -> Location:
    """The line and column of a character."""
    line = text.count("\n", 0, offset) + 1
    return Location(path, line, offset - text.rfind("\n", 0, offset))
