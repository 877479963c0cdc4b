"""A value and its comments as a JSON or YAML document for people: the way back from `source` and `comments`."""

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
_LONGEST_SIMPLE_KEY = 1000  # YAML wants a `:` within 1,024 characters, else a `?` before the key

# Text that is nothing but text to every reader of YAML, old or new, when it stands alone on a line after `key: ` or `- `.
_PLAIN = re.compile(r"(?:[^\W\d_]|_|\.\.?/)(?:[\w./+@()=,;!?*'%-]| (?![ #])|:(?=[\w/]))*(?<! )")
_WORDS = re.compile(r"y|n|yes|no|on|off|true|false|null", re.IGNORECASE)
_UNPRINTABLE = re.compile("[^\t\n -~\xa0-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]|[\u2028\u2029]")


def render(value: Any, comments: Mapping[KeyPath, Comments], form: Literal["json", "yaml"]) -> str:
    """The text of a file that reads back as `value`. JSON is indented by 4, YAML by 2.

    Comments about a key that `value` lacks go before its nearest enclosing one. Raises ConfigError for a NaN in JSON.
    """
    layout = _Json(value, comments) if form == "json" else _Yaml(value, comments)
    return "\n".join(layout.document(value)) + "\n"


class _Layout(ABC):
    """The comments where they will stand, as lines without line breaks."""

    marker = ""

    def __init__(self, value: Any, comments: Mapping[KeyPath, Comments]) -> None:
        self.comments: dict[KeyPath, Comments] = {}
        self.commented_inside: set[KeyPath] = set()
        for key_path, given in comments.items():
            before, after = _lines(given.before), _lines(given.after)
            beside = _lines((given.trailing,)) if given.trailing else []
            place = _nearest(value, key_path)
            if place != key_path:
                before, beside, after = [*before, *beside, *after], [], []
            elif len(beside) > 1:
                before, beside = [*before, *beside], []
            there = self.comments.get(place, Comments())
            self.comments[place] = Comments(
                (*there.before, *before), " ".join(filter(None, [there.trailing, *beside])), (*there.after, *after)
            )
            if given != Comments():
                self.commented_inside.update(place[:depth] for depth in range(len(place)))

    @abstractmethod
    def document(self, value: Any) -> Iterator[str]:
        """The lines of the whole file."""

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
        """The lines of one value, `label` being its key with the colon."""
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
        # The blank lines tell what is said about the file from what is said about its first and last key.
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
        """The lines of one value behind `label`, its key with the colon or the dash of a list item."""
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
    """The longest beginning of `key_path` that leads to something in `value`."""
    for depth, key in enumerate(key_path):
        if key not in (value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()):
            return key_path[:depth]
        value = value[key]
    return key_path


def _lines(texts: tuple[str, ...]) -> list[str]:
    # In YAML, a character that it does not allow would make the whole file invalid even inside of a comment.
    return [_UNPRINTABLE.sub("\ufffd", line).strip() for text in texts for line in text.splitlines() or [""]]


def _is_filled(value: Any) -> bool:
    return isinstance(value, (dict, list)) and bool(value)


def _entries(value: Any) -> Iterator[tuple[Any, Any]]:
    return iter(value.items() if isinstance(value, dict) else enumerate(value))


def _json_line(value: Any, key_path: KeyPath) -> str:
    """The value on one line, '' where it reads better on several: it holds more than a few settings."""
    if isinstance(value, list):
        simple = _is_flat(value) or (
            len(value) == 1 and isinstance(value[0], dict) and all(map(_is_flat, value[0].values()))
        )
    elif isinstance(value, dict) and key_path and isinstance(key_path[-1], int):
        simple = all(map(_is_flat, value.values()))
    else:
        # `{"type": "MergeAdapterWeights"}` stays together; several settings, and a whole file, get a line each.
        simple = not _is_filled(value) or (
            bool(key_path) and len(value) == 1 and not any(map(_is_filled, value.values()))
        )
    return _json_text(value, key_path) if simple else ""


def _is_flat(value: Any) -> bool:
    """A scalar, or a list of scalars."""
    return not _is_filled(value) or (isinstance(value, list) and not any(map(_is_filled, value)))


def _json_text(value: Any, key_path: KeyPath = ()) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_json_text(k)}: {_json_text(v, (*key_path, k))}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_json_text(v, (*key_path, i)) for i, v in enumerate(value)) + "]"
    if isinstance(value, float) and math.isnan(value):
        where = ".".join(map(str, key_path))
        raise ConfigError(f"JSON cannot say that `{where}` is not a number", fix="write a number there")
    if isinstance(value, float) and math.isinf(value):
        return "1e999" if value > 0 else "-1e999"  # JSON has no word for it, but every reader finds this too large
    return json.dumps(value, ensure_ascii=False)


def _yaml_scalar(value: Any) -> str:
    if isinstance(value, str):
        return _yaml_text(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            return ".nan" if math.isnan(value) else ".inf" if value > 0 else "-.inf"
        digits, e, exponent = repr(value).partition("e")
        # PyYAML takes 1e-6 for text: it wants a point (https://github.com/yaml/pyyaml/issues/173).
        return f"{digits}{e}{exponent}" if "." in digits else f"{digits}.0{e}{exponent}"
    return json.dumps(value)  # null, true, 5, {} and [] are the same in both


def _yaml_text(text: str) -> str:
    if _PLAIN.fullmatch(text) and not _WORDS.fullmatch(text):
        return text
    # The escapes of JSON are escapes of YAML, too.
    return _UNPRINTABLE.sub(lambda match: f"\\u{ord(match.group()):04x}", json.dumps(text, ensure_ascii=False))


def _yaml_key(key: str, pad: str) -> str:
    text = _yaml_text(key)
    return f"{text}:" if len(text) <= _LONGEST_SIMPLE_KEY else f"? {text}\n{pad}:"
