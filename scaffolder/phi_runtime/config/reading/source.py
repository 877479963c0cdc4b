"""A parsed config file with the position of every value.

`.yaml` and `.yml` are read as YAML, everything else as JSON with comments; the result has the same form.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from phi_runtime.core.errors import ConfigError, Location

KeyPath = tuple[str | int, ...]

DEEPEST = 100
# Aliases let a YAML file of ten lines expand to billions of values (https://en.wikipedia.org/wiki/Billion_laughs_attack).
MOST_VALUES = 30_000
MOST_BYTES = 4_000_000


@dataclass(frozen=True)
class Comment:
    """A comment without its marker. `offset` is the position of the marker; `own_line`: only blanks are before it."""

    text: str
    offset: int
    own_line: bool


@dataclass(frozen=True)
class Source:
    """A parsed file. All offsets count characters of `text`.

    Attributes:
        places: Position of each key, or of the value for list items. Values from a YAML alias have the position at the anchor.
        spans: Start and end of each entry in the order of the file, from its key or `-` to the end of its value. Aliases and
            merges are not expanded; `<<` is a key.
        options: Command-line options that replace values of the file, by key path.
    """

    path: Path
    text: str
    value: Any
    places: dict[KeyPath, int] = field(repr=False)
    comments: tuple[Comment, ...] = field(default=(), repr=False)
    spans: dict[KeyPath, tuple[int, int]] = field(default_factory=dict, repr=False)
    options: Mapping[KeyPath, str] = field(default_factory=dict, repr=False)

    def locate(self, key_path: KeyPath) -> Location:
        """Return the location of `key_path`, or of the nearest enclosing value if it does not exist."""
        for length in range(len(key_path), 0, -1):
            if option := self.options.get(key_path[:length]):
                return Location(option)
        while key_path and key_path not in self.places:
            key_path = key_path[:-1]
        return location(self.path, self.text, self.places.get(key_path, 0))


def read_source(path: Path) -> Source:
    """Read a JSON or YAML file as plain JSON values. Raises ConfigError at the first syntax error, or if it is too large."""
    try:
        size = path.stat().st_size
        if size > MOST_BYTES:
            raise ConfigError(
                f"the file has {size / 1e6:.1f} MB, and a config at most {MOST_BYTES / 1e6:g} MB",
                where=Location(path),
                fix="check the path",
            )
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as e:
        raise ConfigError(
            f"the file is not UTF-8 (byte {e.start})", where=Location(path), fix="save the file as UTF-8"
        ) from e
    except OSError as e:
        raise ConfigError(f"cannot be read: {e.strerror}", where=Location(path)) from e
    return parse_source(path, text)


def is_yaml(path: Path) -> bool:
    """Return True if the suffix of `path` is that of a YAML file."""
    return path.suffix.lower() in (".yaml", ".yml")


def parse_source(path: Path, text: str) -> Source:
    """Parse the text of the file at `path`, whose suffix selects the format."""
    if is_yaml(path):
        # Importing ruamel.yaml takes longer than reading most configs, so a JSON config does not.
        from phi_runtime.config.reading.yaml_source import read_yaml as read
    else:
        from phi_runtime.config.reading.json_source import read_json as read
    return read(path, text)


class Reading:
    """State of reading one file: positions, comments, and the limits on depth and size."""

    def __init__(self, path: Path, text: str) -> None:
        self.path, self.text = path, text
        self.places: dict[KeyPath, int] = {}
        self.spans: dict[KeyPath, tuple[int, int]] = {}
        self.comments: list[Comment] = []
        self.count = 0

    def begin(self, key_path: KeyPath, place: int, at: int) -> None:
        """Record that the value of `key_path` begins; `at` is the current position."""
        if len(key_path) > DEEPEST:
            raise self.error(f"nested more than {DEEPEST} levels deep", at)
        self.count += 1
        if self.count > MOST_VALUES:
            raise self.error(f"the file has more than {MOST_VALUES:,} values", at, "remove values from here on")
        self.places[key_path] = place

    def comment(self, text: str, offset: int) -> None:
        last = self.comments[-1].offset if self.comments else -1
        newline = self.text.rfind("\n", max(last, 0), offset)  # not from the start: a line may have 100,000 comments
        own_line = (newline >= 0 or last < 0) and not self.text[newline + 1 : offset].strip()
        self.comments.append(Comment(text, offset, own_line))

    def error(self, message: str, offset: int, fix: str = "") -> ConfigError:
        where = location(self.path, self.text, min(offset, len(self.text)))
        return ConfigError(message, where=where, fix=fix or "fix the file at this position")

    def source(self, value: Any) -> Source:
        return Source(self.path, self.text, value, self.places, tuple(self.comments), self.spans)


def location(path: Path, text: str, offset: int) -> Location:
    """Return the line and column of the character at `offset`."""
    line = text.count("\n", 0, offset) + 1
    return Location(path, line, offset - text.rfind("\n", 0, offset))
