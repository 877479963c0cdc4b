"""YAML as plain JSON values, with the place of each.

It is built on the events of PyYAML's own parser, not on yaml.safe_load: that one forgets places and comments, takes the
second of two equal keys, and lets aliases grow without end. The parser in Python is used even where libyaml is there: it
says what is wrong in other words, and 100 lines take it 8 ms.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from pathlib import Path
from typing import Any

import yaml
from yaml.parser import Parser
from yaml.reader import Reader
from yaml.scanner import Scanner

from phi_runtime.config.reading.source import KeyPath, Reading, Source
from phi_runtime.config.reading.yaml_faults import plain_fault
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
    """Parses YAML. Raises ConfigError with the place of the first syntax error."""
    reading = Reading(path, text)
    try:
        builder = _Builder(reading)
    except yaml.YAMLError as e:
        raise plain_fault(e, reading) from None
    try:
        value = builder.whole()
    except yaml.YAMLError as e:
        raise plain_fault(e, reading) from None
    except (ValueError, OverflowError):  # what PyYAML 6.0.3 lets through for "\UFFFFFFFF"
        raise reading.fault("bad escape in this text", builder.events.index, "mend the YAML there") from None
    builder.end_blocks()
    return reading.source(value)


class _Events(Reader, Scanner, Parser):
    """PyYAML's events, with an eye on its tokens: comments are what lies between them."""

    def __init__(self, reading: Reading) -> None:
        self.reading = reading
        self.passed = 0  # where the latest token ends
        self.dash = 0  # the latest `-` of a list item
        Reader.__init__(self, reading.text)
        Scanner.__init__(self)
        Parser.__init__(self)

    def get_token(self) -> Any:
        token = super().get_token()
        start, end = token.start_mark.index, token.end_mark.index
        for match in _COMMENT.finditer(self.reading.text, self.passed, max(start, self.passed)):
            self.reading.comment(match.group(1).strip(), match.start())
        self.passed = max(self.passed, end)
        if isinstance(token, yaml.BlockEntryToken):
            self.dash = start
        elif isinstance(token, yaml.ScalarToken) and token.style in ("|", ">"):
            header = _BLOCK_SCALAR_COMMENT.match(self.reading.text, start)
            if header:
                self.reading.comment(header.group(1).strip(), header.start(1) - 1)
        return token


class _Builder:
    def __init__(self, reading: Reading) -> None:
        self.reading = reading
        self.events = _Events(reading)
        self.anchors: dict[str, tuple[Any, KeyPath]] = {}
        self.unfinished: set[str] = set()
        self.blocks: list[tuple[KeyPath, int, int]] = []  # collections without brackets: first entry, end of the last
        self.content_end = 0

    def next(self) -> Any:
        event = self.events.get_event()
        if isinstance(event, (yaml.ScalarEvent, yaml.AliasEvent)) or getattr(event, "flow_style", None):
            self.content_end = event.end_mark.index
        return event

    def fault(self, message: str, event: Any, fix: str = "") -> ConfigError:
        return self.reading.fault(message, event.start_mark.index, fix or "mend the YAML there")

    def whole(self) -> Any:
        self.next()  # the start of the stream
        document, event = self.next(), None
        if not isinstance(document, yaml.StreamEndEvent):
            event = self.next()
        if event is None or (isinstance(event, yaml.ScalarEvent) and event.start_mark.index == event.end_mark.index):
            raise self.reading.fault("the file is empty", 0, "write the settings into it")
        value = self.one((), event, event.start_mark.index, event.start_mark.index)
        self.next()  # the end of the document
        after = self.next()
        if not isinstance(after, yaml.StreamEndEvent):
            raise self.fault("a second document begins here", after, "keep one document in each file")
        return value

    def one(self, key_path: KeyPath, event: Any, place: int, start: int) -> Any:
        """The value that begins with `event`; its entry (the key, the `-`) begins at `start`."""
        self.reading.begin(key_path, place, event.start_mark.index)
        self.reading.spans[key_path] = (start, start)  # holds the place before those of its children
        if isinstance(event, yaml.AliasEvent):
            value, written_at = self.aliased(event)
            self.copy_places(value, written_at, key_path, event)
            value = _copied(value)
            end = event.end_mark.index
        else:
            self.open_anchor(event)
            if isinstance(event, yaml.ScalarEvent):
                value, end = self.scalar(event), event.end_mark.index
            else:
                value, end = self.collection(key_path, event)
            self.close_anchor(event, value, key_path)
        self.reading.spans[key_path] = (start, end)
        return value

    def open_anchor(self, event: Any) -> None:
        if event.anchor is not None:
            if event.anchor in self.anchors or event.anchor in self.unfinished:
                raise self.fault(
                    f"the anchor `&{event.anchor}` stands here for the second time", event, "rename one of the two"
                )
            self.unfinished.add(event.anchor)

    def close_anchor(self, event: Any, value: Any, key_path: KeyPath) -> None:
        if event.anchor is not None:
            self.unfinished.remove(event.anchor)
            self.anchors[event.anchor] = (value, key_path)

    def aliased(self, event: Any) -> tuple[Any, KeyPath]:
        if event.anchor in self.unfinished:
            raise self.fault(
                f"`*{event.anchor}` stands inside of `&{event.anchor}`, so it would never end", event, "remove it"
            )
        if event.anchor not in self.anchors:
            fix = f"mark the value above that it stands for with `&{event.anchor}`, or put the text in quotes"
            raise self.fault(f"there is no anchor `&{event.anchor}` before this", event, fix)
        return self.anchors[event.anchor]

    def copy_places(self, value: Any, source: KeyPath, target: KeyPath, event: Any) -> None:
        """Gives everything inside `value` at `target` the place that it has at `source`."""
        entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        for key, inner in entries:
            self.reading.begin((*target, key), self.reading.places[(*source, key)], event.start_mark.index)
            self.copy_places(inner, (*source, key), (*target, key), event)

    def scalar(self, event: Any) -> Any:
        text: str = event.value
        if event.style == '"' and _SURROGATE.search(text):
            raise self.fault("bad escape in this text (half of a surrogate pair)", event, "write the character itself")
        if event.tag in (None, "!"):
            return self.plain(event) if event.implicit[0] else text
        kind = self.core_tag(event)
        if kind in _TEXT_TAGS:
            return text
        value = self.plain(event)
        if type(value) not in _TYPES.get(kind, ()):
            raise self.fault(f"`{text[:40]}` is no `!!{kind}`", event)
        return float(value) if kind == "float" else value

    def plain(self, event: Any) -> Any:
        try:
            return plain_value(event.value)
        except ValueError as e:
            raise self.fault(str(e), event) from None

    def core_tag(self, event: Any) -> str:
        kind = event.tag.removeprefix(_CORE)
        known = {yaml.ScalarEvent: (*_TEXT_TAGS, *_TYPES), yaml.MappingStartEvent: ("map",)}.get(type(event), ("seq",))
        if not event.tag.startswith(_CORE) or kind not in known:
            tag = "!!" + kind if event.tag.startswith(_CORE) else event.tag
            raise self.fault(f"the tag `{tag}` makes something else than a JSON value here", event, "remove the tag")
        return str(kind)

    def collection(self, key_path: KeyPath, event: Any) -> tuple[Any, int]:
        """A mapping or list, and where it ends."""
        if event.tag not in (None, "!"):
            self.core_tag(event)
        first = self.events.peek_event().start_mark.index
        is_mapping = isinstance(event, yaml.MappingStartEvent)
        first = first if is_mapping else self.events.dash
        value, end = self.members(key_path) if is_mapping else self.items(key_path, event)
        if not event.flow_style:
            self.blocks.append((key_path, first, self.content_end))
            return value, end.start_mark.index
        self.content_end = end.end_mark.index
        return value, self.content_end

    def members(self, key_path: KeyPath) -> tuple[dict[str, Any], Any]:
        found: dict[str, Any] = {}
        merge: Any = None
        while not isinstance(event := self.next(), yaml.MappingEndEvent):
            at = event.start_mark.index
            is_merge = isinstance(event, yaml.ScalarEvent) and event.value == MERGE and event.implicit[0]
            key = MERGE if is_merge else self.key(event)
            if merge is not None if is_merge else key in found:
                raise self.fault(
                    f"the key `{key[:40]}` stands here for the second time", event, "remove one of the two"
                )
            value = self.one((*key_path, key), self.next(), at, at)
            if is_merge:
                merge = (value, event)
            else:
                found[key] = value
        return found if merge is None else self.merged(key_path, found, *merge), event

    def merged(self, key_path: KeyPath, own: dict[str, Any], value: Any, event: Any) -> dict[str, Any]:
        """As PyYAML does it: what is merged comes first, of several mappings the first one wins, `own` wins over all."""
        place = (*key_path, MERGE)
        bases = [((*place, i), base) for i, base in enumerate(value)] if isinstance(value, list) else [(place, value)]
        if not all(isinstance(base, dict) for _, base in bases):
            raise self.fault(f"`{MERGE}` takes a mapping or a list of mappings", event)
        whole: dict[str, Any] = {}
        for base_at, base in reversed(bases):
            whole |= base
            for key in base.keys() - own.keys():
                self.reading.begin((*key_path, key), self.reading.places[(*base_at, key)], event.start_mark.index)
                self.copy_places(base[key], (*base_at, key), (*key_path, key), event)
        return whole | own

    def key(self, event: Any) -> str:
        if isinstance(event, yaml.AliasEvent):
            value = self.aliased(event)[0]
        elif isinstance(event, yaml.ScalarEvent):
            self.open_anchor(event)
            value = self.scalar(event)
            self.close_anchor(event, value, ())
        else:
            raise self.fault("a key must be text, not a mapping or a list", event)
        if isinstance(value, str):
            return value
        if getattr(event, "value", "") == "":
            raise self.fault("a key is missing here", event)
        kind = "null" if value is None else str(value).lower() if isinstance(value, bool) else "a number"
        text = event.value[:40]
        raise self.fault(f"the key `{text}` is read as {kind}", event, f'put it in quotes: "{text}"')

    def items(self, key_path: KeyPath, start: Any) -> tuple[list[Any], Any]:
        found: list[Any] = []
        while not isinstance(event := self.next(), yaml.SequenceEndEvent):
            at = event.start_mark.index
            found.append(self.one((*key_path, len(found)), event, at, at if start.flow_style else self.events.dash))
        return found, event

    def end_blocks(self) -> None:
        """Says which comments belong to a collection without brackets, where blanks and blank lines are all there is."""
        comments = [c for c in self.reading.comments if c.own_line]
        offsets = [c.offset for c in comments]
        columns = {key_path: self.column(first_at) for key_path, first_at, _ in self.blocks}
        for key_path, first_at, content_end in self.blocks:
            start, end = self.reading.spans[key_path]
            if not key_path:
                # A blank line sets apart what is said about the whole file.
                start = self.first_of_paragraph(offsets, first_at)
                end = self.second_paragraph(offsets, content_end, end)
            indent = columns[key_path]
            if key_path and columns.get(key_path[:-1]) == indent:
                indent += 1  # a list below its key without indentation: what stands at the margin is about the next key
            behind = offsets[bisect_left(offsets, content_end) : bisect_left(offsets, end)]
            end = next((offset for offset in behind if self.column(offset) < indent), end)
            self.reading.spans[key_path] = (start, end)

    def column(self, offset: int) -> int:
        return offset - self.reading.text.rfind("\n", 0, offset) - 1

    def first_of_paragraph(self, offsets: list[int], content: int) -> int:
        """Where the comments begin that stand directly above `content`."""
        for offset in reversed(offsets[: bisect_left(offsets, content)]):
            line_end = self.reading.text.find("\n", offset)
            if not _ONE_BREAK.fullmatch(self.reading.text, line_end, content):
                break
            content = offset
        return content

    def second_paragraph(self, offsets: list[int], content_end: int, end: int) -> int:
        """Where the comments begin that a blank line separates from the content above; `end` without such."""
        for offset in offsets[bisect_left(offsets, content_end) : bisect_left(offsets, end)]:
            if _BLANK_LINE.search(self.reading.text, content_end, offset):
                return offset
            content_end = offset
        return end


def _copied(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _copied(inner) for key, inner in value.items()}
    return [_copied(inner) for inner in value] if isinstance(value, list) else value
