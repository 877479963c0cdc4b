"""Read YAML as plain JSON values with their positions and comments.

Built on the events of ruamel.yaml's parser rather than on `YAML().load`, which has no position for aliases and merged keys, no
limit for the number of values that aliases expand to, and attaches comments to the token before them instead of to a key.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.docinfo import DocInfo
from ruamel.yaml.error import YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    StreamEndEvent,
)
from ruamel.yaml.reader import Reader
from ruamel.yaml.scanner import Scanner
from ruamel.yaml.tokens import BlockEntryToken, ScalarToken

from phi_runtime.config.reading.source import KeyPath, Reading, Source
from phi_runtime.config.reading.yaml_errors import FIX, plain_error
from phi_runtime.config.reading.yaml_scalars import plain_value
from phi_runtime.core.errors import ConfigError

MERGE = "<<"

_CORE = "tag:yaml.org,2002:"
_TEXT_TAGS = ("str", "binary", "timestamp")
_TYPES: dict[str, tuple[type, ...]] = {"int": (int,), "float": (int, float), "bool": (bool,), "null": (type(None),)}
_COMMENT = re.compile("#([^\n\x85\u2028\u2029]*)")
_BLOCK_SCALAR_COMMENT = re.compile("[|>][-+0-9]*[ \t]+#([^\n\x85\u2028\u2029]*)")
_SURROGATE = re.compile("[\ud800-\udfff]")
_ONE_BREAK = re.compile(r"\n[ \t]*")
_BLANK_LINE = re.compile(r"\n[ \t]*\n")


def read_yaml(path: Path, text: str) -> Source:
    """Parse a YAML text. Raises ConfigError with the place of the first syntax error."""
    reading = Reading(path, text)
    yaml = YAML(typ="safe", pure=True)
    yaml.Reader, yaml.Scanner = Reader, _Scanner
    yaml.doc_infos.append(DocInfo())  # the scanner writes the version of a %YAML line to it
    try:
        yaml.reader.stream = text
        yaml.scanner.reading = reading
        builder = _Builder(reading, yaml)
        value = builder.document()
    except YAMLError as e:
        raise plain_error(e, reading) from None
    except AssertionError:  # ruamel.yaml 0.19 asserts the version
        fix = "remove the `%YAML` line"
        raise reading.error("only YAML 1.1 and 1.2 are supported", max(text.find("%YAML"), 0), fix) from None
    except (ValueError, OverflowError):  # raised by ruamel.yaml 0.19 and PyYAML 6.0 for "\UFFFFFFFF"
        raise reading.error("bad escape in this string", yaml.reader.index, FIX) from None
    builder.end_blocks()
    return reading.source(value)


class _Scanner(Scanner):
    """A scanner that collects comments, which are between tokens, and the position of the last `-`."""

    def __init__(self, loader: Any) -> None:
        super().__init__(loader)
        self.reading: Any = None
        self.scanned = 0  # end of the last token
        self.dash = 0

    def get_token(self) -> Any:
        token = super().get_token()
        start, end = token.start_mark.index, token.end_mark.index
        for match in _COMMENT.finditer(self.reading.text, self.scanned, max(start, self.scanned)):
            self.reading.comment(match.group(1).strip(), match.start())
        self.scanned = max(self.scanned, end)
        if isinstance(token, BlockEntryToken):
            self.dash = start
        elif isinstance(token, ScalarToken) and token.style in ("|", ">"):
            header = _BLOCK_SCALAR_COMMENT.match(self.reading.text, start)
            if header:
                self.reading.comment(header.group(1).strip(), header.start(1) - 1)
        return token


class _Builder:
    def __init__(self, reading: Reading, yaml: Any) -> None:
        self.reading = reading
        self.parser, self.scanner = yaml.parser, yaml.scanner
        self.anchors: dict[str, tuple[Any, KeyPath]] = {}
        self.unfinished: set[str] = set()
        self.blocks: list[tuple[KeyPath, int, int]] = []  # collections without brackets: first entry, end of the last
        self.content_end = 0

    def next(self) -> Any:
        event = self.parser.get_event()
        if isinstance(event, (ScalarEvent, AliasEvent)) or getattr(event, "flow_style", None):
            self.content_end = event.end_mark.index
        return event

    def error(self, message: str, event: Any, fix: str = "") -> ConfigError:
        return self.reading.error(message, event.start_mark.index, fix or FIX)

    def document(self) -> Any:
        self.next()  # the start of the stream
        start, event = self.next(), None
        if not isinstance(start, StreamEndEvent):
            event = self.next()
        if event is None or (isinstance(event, ScalarEvent) and event.start_mark.index == event.end_mark.index):
            raise self.reading.error("the file is empty", 0, "write settings into it")
        value = self.value((), event, event.start_mark.index, event.start_mark.index)
        self.next()  # the end of the document
        after = self.next()
        if not isinstance(after, StreamEndEvent):
            raise self.error("a second document begins here", after, "write one document per file")
        return value

    def value(self, key_path: KeyPath, event: Any, place: int, start: int) -> Any:
        """Return the value that begins with `event`; its entry (the key or the `-`) begins at `start`."""
        self.reading.begin(key_path, place, event.start_mark.index)
        self.reading.spans[key_path] = (start, start)  # reserves its position before its children
        if isinstance(event, AliasEvent):
            value, written_at = self.aliased(event)
            self.copy_places(value, written_at, key_path, event)
            value = _copied(value)
            end = event.end_mark.index
        else:
            self.open_anchor(event)
            if isinstance(event, ScalarEvent):
                value, end = self.scalar(event), event.end_mark.index
            else:
                value, end = self.collection(key_path, event)
            self.close_anchor(event, value, key_path)
        self.reading.spans[key_path] = (start, end)
        return value

    def open_anchor(self, event: Any) -> None:
        if event.anchor is not None:
            if event.anchor in self.anchors or event.anchor in self.unfinished:
                raise self.error(f"duplicate anchor `&{event.anchor}`", event, "rename one of the two")
            self.unfinished.add(event.anchor)

    def close_anchor(self, event: Any, value: Any, key_path: KeyPath) -> None:
        if event.anchor is not None:
            self.unfinished.remove(event.anchor)
            self.anchors[event.anchor] = (value, key_path)

    def aliased(self, event: Any) -> tuple[Any, KeyPath]:
        if event.anchor in self.unfinished:
            raise self.error(f"`*{event.anchor}` is inside `&{event.anchor}`, which never ends", event, "remove it")
        if event.anchor not in self.anchors:
            fix = f"add `&{event.anchor}` to the value above that it refers to, or put the text in quotes"
            raise self.error(f"unknown anchor `&{event.anchor}`", event, fix)
        return self.anchors[event.anchor]

    def copy_places(self, value: Any, source: KeyPath, target: KeyPath, event: Any) -> None:
        """Give everything inside `value` at `target` the position that it has at `source`."""
        entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        for key, inner in entries:
            self.reading.begin((*target, key), self.reading.places[(*source, key)], event.start_mark.index)
            self.copy_places(inner, (*source, key), (*target, key), event)

    def scalar(self, event: Any) -> Any:
        text: str = event.value
        if event.style == '"' and _SURROGATE.search(text):
            raise self.error(
                "bad escape in this string (half of a surrogate pair)", event, "write the character itself"
            )
        if event.tag in (None, "!"):
            return self.plain(event) if event.implicit[0] else text
        kind = self.core_tag(event)
        if kind in _TEXT_TAGS:
            return text
        value = self.plain(event)
        if type(value) not in _TYPES.get(kind, ()):
            raise self.error(f"`{text[:40]}` is not a valid `!!{kind}`", event)
        return float(value) if kind == "float" else value

    def plain(self, event: Any) -> Any:
        try:
            return plain_value(event.value)
        except ValueError as e:
            raise self.error(str(e), event) from None

    def core_tag(self, event: Any) -> str:
        kind = event.tag.removeprefix(_CORE)
        known = {ScalarEvent: (*_TEXT_TAGS, *_TYPES), MappingStartEvent: ("map",)}.get(type(event), ("seq",))
        if not event.tag.startswith(_CORE) or kind not in known:
            tag = "!!" + kind if event.tag.startswith(_CORE) else event.tag
            raise self.error(f"the tag `{tag}` does not create a JSON value here", event, "remove the tag")
        return str(kind)

    def collection(self, key_path: KeyPath, event: Any) -> tuple[Any, int]:
        """Return a mapping or list, and its end."""
        if event.tag not in (None, "!"):
            self.core_tag(event)
        first = self.parser.peek_event().start_mark.index
        is_mapping = isinstance(event, MappingStartEvent)
        first = first if is_mapping else self.scanner.dash
        value, end = self.members(key_path) if is_mapping else self.items(key_path, event)
        if not event.flow_style:
            self.blocks.append((key_path, first, self.content_end))
            return value, end.start_mark.index
        self.content_end = end.end_mark.index
        return value, self.content_end

    def members(self, key_path: KeyPath) -> tuple[dict[str, Any], Any]:
        members: dict[str, Any] = {}
        merge: Any = None
        while not isinstance(event := self.next(), MappingEndEvent):
            at = event.start_mark.index
            is_merge = isinstance(event, ScalarEvent) and event.value == MERGE and event.implicit[0]
            key = MERGE if is_merge else self.key(event)
            if merge is not None if is_merge else key in members:
                raise self.error(f"duplicate key `{key[:40]}`", event, "remove one of the two")
            value = self.value((*key_path, key), self.next(), at, at)
            if is_merge:
                merge = (value, event)
            else:
                members[key] = value
        return members if merge is None else self.merged(key_path, members, *merge), event

    def merged(self, key_path: KeyPath, own: dict[str, Any], value: Any, event: Any) -> dict[str, Any]:
        """Merge as PyYAML does: merged keys come first, the first of several mappings wins, and `own` overrides all."""
        place = (*key_path, MERGE)
        bases = [((*place, i), base) for i, base in enumerate(value)] if isinstance(value, list) else [(place, value)]
        if not all(isinstance(base, dict) for _, base in bases):
            raise self.error(f"`{MERGE}` needs a mapping or a list of mappings", event)
        merged: dict[str, Any] = {}
        for base_at, base in reversed(bases):
            merged |= base
            for key in base.keys() - own.keys():
                self.reading.begin((*key_path, key), self.reading.places[(*base_at, key)], event.start_mark.index)
                self.copy_places(base[key], (*base_at, key), (*key_path, key), event)
        return merged | own

    def key(self, event: Any) -> str:
        if isinstance(event, AliasEvent):
            value = self.aliased(event)[0]
        elif isinstance(event, ScalarEvent):
            self.open_anchor(event)
            value = self.scalar(event)
            self.close_anchor(event, value, ())
        else:
            raise self.error("a key must be a string, not a mapping or a list", event)
        if isinstance(value, str):
            return value
        if getattr(event, "value", "") == "":
            raise self.error("a key is missing here", event)
        kind = "null" if value is None else str(value).lower() if isinstance(value, bool) else "a number"
        text = event.value[:40]
        raise self.error(f"the key `{text}` is {kind}, not a string", event, f'put it in quotes: "{text}"')

    def items(self, key_path: KeyPath, start: Any) -> tuple[list[Any], Any]:
        items: list[Any] = []
        while not isinstance(event := self.next(), SequenceEndEvent):
            at = event.start_mark.index
            items.append(self.value((*key_path, len(items)), event, at, at if start.flow_style else self.scanner.dash))
        return items, event

    def end_blocks(self) -> None:
        """Assign comments to block collections, which only indentation and blank lines delimit."""
        comments = [c for c in self.reading.comments if c.own_line]
        offsets = [c.offset for c in comments]
        columns = {key_path: self.column(first_at) for key_path, first_at, _ in self.blocks}
        for key_path, first_at, content_end in self.blocks:
            start, end = self.reading.spans[key_path]
            if not key_path:
                # A blank line separates the comments on the file.
                start = self.first_of_paragraph(offsets, first_at)
                end = self.second_paragraph(offsets, content_end, end)
            indent = columns[key_path]
            if key_path and columns.get(key_path[:-1]) == indent:
                indent += 1  # an unindented list: comments at its indentation are about the next key
            following = offsets[bisect_left(offsets, content_end) : bisect_left(offsets, end)]
            end = next((offset for offset in following if self.column(offset) < indent), end)
            self.reading.spans[key_path] = (start, end)

    def column(self, offset: int) -> int:
        return offset - self.reading.text.rfind("\n", 0, offset) - 1

    def first_of_paragraph(self, offsets: list[int], content: int) -> int:
        """Return the start of the comments directly above `content`."""
        for offset in reversed(offsets[: bisect_left(offsets, content)]):
            line_end = self.reading.text.find("\n", offset)
            if not _ONE_BREAK.fullmatch(self.reading.text, line_end, content):
                break
            content = offset
        return content

    def second_paragraph(self, offsets: list[int], content_end: int, end: int) -> int:
        """Return the start of the comments that a blank line separates from the content above, or `end`."""
        for offset in offsets[bisect_left(offsets, content_end) : bisect_left(offsets, end)]:
            if _BLANK_LINE.search(self.reading.text, content_end, offset):
                return offset
            content_end = offset
        return end


def _copied(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _copied(inner) for key, inner in value.items()}
    return [_copied(inner) for inner in value] if isinstance(value, list) else value
