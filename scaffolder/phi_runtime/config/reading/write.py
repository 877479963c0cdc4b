"""Write a value and its comments as a readable JSON or YAML document, the inverse of `source` and `comments`."""

from __future__ import annotations

import json
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from phi_runtime.config.reading.comments import Comments
from phi_runtime.config.reading.source import KeyPath
from phi_runtime.core.errors import ConfigError

_LIST_COLUMNS, _OBJECT_COLUMNS = 100, 80
_LONGEST_SIMPLE_KEY = 1000  # YAML requires the `:` within 1,024 characters, else a `?` before the key

# Text that every YAML version reads as a string without quotes, after `key: ` or `- `.
_PLAIN = re.compile(r"(?:[^\W\d_]|_|\.\.?/)(?:[\w./+@()=,;!?*'%-]| (?![ #])|:(?=[\w/]))*(?<! )")
_WORDS = re.compile(r"y|n|yes|no|on|off|true|false|null", re.IGNORECASE)
_UNPRINTABLE = re.compile("[^\t\n -~\xa0-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]|[\u2028\u2029]")


def render(value: Any, comments: Mapping[KeyPath, Comments], form: Literal["json", "yaml"]) -> str:
    """Return the text of a file that reads back as `value`. JSON is indented by 4, YAML by 2.

    Comments on a key that is not in `value` go before the nearest enclosing key. Raises ConfigError for a NaN in JSON.
    """
    layout = _Json(value, comments) if form == "json" else _Yaml(value, comments)
    return "\n".join(layout.document(value)) + "\n"


class _Layout(ABC):
    """Comments at their final keys, as single lines."""

    marker = ""

    def __init__(self, value: Any, comments: Mapping[KeyPath, Comments]) -> None:
        self.comments: dict[KeyPath, Comments] = {}
        self.commented_inside: set[KeyPath] = set()
        for key_path, written in comments.items():
            before, after = _lines(written.before), _lines(written.after)
            trailing = _lines((written.trailing,)) if written.trailing else []
            place = _nearest(value, key_path)
            if place != key_path:
                before, trailing, after = [*before, *trailing, *after], [], []
            elif len(trailing) > 1:
                before, trailing = [*before, *trailing], []
            existing = self.comments.get(place, Comments())
            self.comments[place] = Comments(
                (*existing.before, *before),
                " ".join(filter(None, [existing.trailing, *trailing])),
                (*existing.after, *after),
            )
            if written != Comments():
                self.commented_inside.update(place[:depth] for depth in range(len(place)))

    @abstractmethod
    def document(self, value: Any) -> Iterator[str]:
        """Yield the lines of the file."""

    def at(self, key_path: KeyPath) -> Comments:
        return self.comments.get(key_path, Comments())

    def own_lines(self, pad: str, texts: tuple[str, ...]) -> Iterator[str]:
        for text in texts:
            yield f"{pad}{self.marker} {text}".rstrip()

    def trailing(self, key_path: KeyPath) -> str:
        text = self.at(key_path).trailing
        return f" {self.marker} {text}" if text else ""


class _Json(_Layout):
    marker = "//"

    def document(self, value: Any) -> Iterator[str]:
        return self.entry("", value, (), "", "")

    def entry(self, label: str, value: Any, key_path: KeyPath, pad: str, comma: str) -> Iterator[str]:
        """Yield the lines of one value; `label` is its key with the colon."""
        yield from self.own_lines(pad, self.at(key_path).before)
        one_line = "" if key_path in self.commented_inside else _json_line(value, key_path)
        line = f"{pad}{label}{one_line}{comma}"
        if one_line and (
            not _is_filled(value) or len(line) <= (_LIST_COLUMNS if isinstance(value, list) else _OBJECT_COLUMNS)
        ):
            yield line + self.trailing(key_path)
        else:
            opening, closing = "{}" if isinstance(value, dict) else "[]"
            yield f"{pad}{label}{opening}{self.trailing(key_path)}"
            for i, (key, inner) in enumerate(_entries(value)):
                inner_label = f"{_json_text(key)}: " if isinstance(value, dict) else ""
                inner_comma = "," if i < len(value) - 1 else ""
                yield from self.entry(inner_label, inner, (*key_path, key), pad + "    ", inner_comma)
            yield f"{pad}{closing}{comma}"
        yield from self.own_lines(pad, self.at(key_path).after)


class _Yaml(_Layout):
    marker = "#"

    def document(self, value: Any) -> Iterator[str]:
        # Blank lines separate comments on the file from those on its first and last key.
        about = self.at(())
        header = (*about.before, about.trailing) if about.trailing and _is_filled(value) else about.before
        yield from self.own_lines("", header)
        if header:
            yield ""
        if _is_filled(value):
            yield from self.block(value, (), "")
        else:
            yield _yaml_scalar(value) + self.trailing(())
        if about.after:
            yield ""
        yield from self.own_lines("", about.after)

    def block(self, value: Any, key_path: KeyPath, pad: str) -> Iterator[str]:
        for key, inner in _entries(value):
            inner_path = (*key_path, key)
            yield from self.own_lines(pad, self.at(inner_path).before)
            yield from self.entry(
                f"{pad}{_yaml_key(key, pad)}" if isinstance(value, dict) else f"{pad}-", inner, inner_path, pad
            )
            yield from self.own_lines(pad, self.at(inner_path).after)

    def entry(self, label: str, value: Any, key_path: KeyPath, pad: str) -> Iterator[str]:
        """Yield the lines of one value after `label`, its key with the colon or the dash of a list item."""
        trailing = self.trailing(key_path)
        if not _is_filled(value):
            yield f"{label} {_yaml_scalar(value)}{trailing}"
            return
        inside = self.block(value, key_path, pad + "  ")
        first = next(inside)
        if isinstance(key_path[-1], int) and not trailing and not first.lstrip().startswith("#"):
            yield f"{label} {first.lstrip()}"
        else:
            yield f"{label}{trailing}"
            yield first
        yield from inside


def _nearest(value: Any, key_path: KeyPath) -> KeyPath:
    """Return the longest prefix of `key_path` that exists in `value`."""
    for depth, key in enumerate(key_path):
        if key not in (value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()):
            return key_path[:depth]
        value = value[key]
    return key_path


def _lines(texts: tuple[str, ...]) -> list[str]:
    # A character that YAML does not allow makes the file invalid even in a comment.
    return [_UNPRINTABLE.sub("\ufffd", line).strip() for text in texts for line in text.splitlines() or [""]]


def _is_filled(value: Any) -> bool:
    return isinstance(value, (dict, list)) and bool(value)


def _entries(value: Any) -> Iterator[tuple[Any, Any]]:
    return iter(value.items() if isinstance(value, dict) else enumerate(value))


def _json_line(value: Any, key_path: KeyPath) -> str:
    """Return the value on one line, or '' if it reads better on several lines."""
    if isinstance(value, list):
        simple = _is_flat(value) or (
            len(value) == 1 and isinstance(value[0], dict) and all(map(_is_flat, value[0].values()))
        )
    elif isinstance(value, dict) and key_path and isinstance(key_path[-1], int):
        simple = all(map(_is_flat, value.values()))
    else:
        # `{"type": "MergeAdapterWeights"}` stays on one line; several settings get a line each.
        simple = not _is_filled(value) or (
            bool(key_path) and len(value) == 1 and not any(map(_is_filled, value.values()))
        )
    return _json_text(value, key_path) if simple else ""


def _is_flat(value: Any) -> bool:
    """Return True for a scalar or a list of scalars."""
    return not _is_filled(value) or (isinstance(value, list) and not any(map(_is_filled, value)))


def _json_text(value: Any, key_path: KeyPath = ()) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_json_text(k)}: {_json_text(v, (*key_path, k))}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_json_text(v, (*key_path, i)) for i, v in enumerate(value)) + "]"
    if isinstance(value, float) and math.isnan(value):
        where = ".".join(map(str, key_path))
        raise ConfigError(f"`{where}` is not a number, which JSON cannot represent", fix="write a number")
    if isinstance(value, float) and math.isinf(value):
        return "1e999" if value > 0 else "-1e999"  # JSON has no infinity, but every reader overflows here
    return json.dumps(value, ensure_ascii=False)


def _yaml_scalar(value: Any) -> str:
    if isinstance(value, str):
        return _yaml_text(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            return ".nan" if math.isnan(value) else ".inf" if value > 0 else "-.inf"
        digits, e, exponent = repr(value).partition("e")
        # PyYAML reads 1e-6 as text: it requires a point (https://github.com/yaml/pyyaml/issues/173).
        return f"{digits}{e}{exponent}" if "." in digits else f"{digits}.0{e}{exponent}"
    return json.dumps(value)  # null, true, 5, {} and [] are the same in JSON and YAML


def _yaml_text(text: str) -> str:
    if _PLAIN.fullmatch(text) and not _WORDS.fullmatch(text):
        return text
    # YAML has all escapes of JSON.
    return _UNPRINTABLE.sub(lambda match: f"\\u{ord(match.group()):04x}", json.dumps(text, ensure_ascii=False))


def _yaml_key(key: str, pad: str) -> str:
    text = _yaml_text(key)
    return f"{text}:" if len(text) <= _LONGEST_SIMPLE_KEY else f"? {text}\n{pad}:"
