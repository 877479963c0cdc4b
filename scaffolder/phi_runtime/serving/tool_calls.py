"""The tool calls in an answer, read while it is generated."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Sequence
from dataclasses import dataclass

from phi_runtime.inference.stop_strings import overlap
from phi_runtime.serving.tool_format import ID, ToolFormat


@dataclass(frozen=True)
class CallDelta:
    """The next part of a tool call; `id` and `name` are in its first part only."""

    index: int
    arguments: str
    id: str | None = None
    name: str | None = None


Delta = str | CallDelta  # text, or a part of a call


class ToolCallParser:
    """Splits the text of one answer into text and tool calls.

    Text that may be the beginning of a call is kept until that is decided; the arguments of a call are passed on as they come.

    Args:
        call_format: Format of the model's template.
        names: The functions that may be called; a call of another one remains text.
        limit: Most calls; further ones are dropped. None: no limit.

    Attributes:
        count: Calls so far.
    """

    def __init__(self, call_format: ToolFormat, names: Sequence[str], limit: int | None = None) -> None:
        self.format, self.names, self.limit = call_format, names, limit
        self.count = 0
        self._buffer = ""
        self._in_calls = False  # else in text
        self._arguments: _JsonEnd | None = None  # of the call that is being passed on
        self._at_start = True
        self._trigger = call_format.trigger
        self._skipped = re.compile(f"(?:{'|'.join(self._between())})*")
        name = f"(?P<name>{'|'.join(map(re.escape, names))})"
        self._head = re.compile(self._lenient(call_format.head) + name + self._lenient(call_format.middle) + r"(?=\{)")
        middles = {"".join(call_format.middle.split()), self._bare(call_format.middle)}
        # Beginnings of a call after its opener, and of all else that may be around calls; without white space.
        self._starts = ["{"] if call_format.is_object else [f"{name}{middle}{{" for name in names for middle in middles]
        around = (call_format.opener, call_format.tail, call_format.separator or "", call_format.closer)
        self._around = [*("".join(text.split()) for text in around), *map(self._bare, around), *call_format.markers]

    def push(self, text: str) -> list[Delta]:
        """Add the next text of the answer, and return what is decided."""
        self._buffer += text
        deltas: list[Delta] = []
        while self._step(deltas):
            pass
        return deltas

    def finish(self) -> list[Delta]:
        """Return the rest at the end of the answer."""
        if self._arguments or self._full:
            return []  # what was cut is passed on already
        rest = self._buffer[self._start() if self.count else 0 :]
        return [rest] if rest and (rest.strip() or not self.count) else []

    # -- steps: each returns True if another one may follow ------------------------------------------------------------

    def _step(self, deltas: list[Delta]) -> bool:
        if self._arguments:
            return self._pass_arguments(deltas)
        return self._call(deltas) if self._in_calls else self._text(deltas)

    def _text(self, deltas: list[Delta]) -> bool:
        buffer = self._buffer
        if self._at_start:  # a call may lack its opener
            begins = self._begins(self._start())
            self._in_calls = bool(begins)
            if begins is not False:
                return self._in_calls
        at = buffer.find(self._trigger) if self._trigger else -1
        self._in_calls = at >= 0
        # White space before a call is no text.
        end = len(buffer[:at].rstrip()) if self._in_calls else _decided(buffer, self._trigger)
        if end:
            deltas.append(buffer[:end])
            self._at_start = False
        self._buffer = buffer[end:]
        return self._in_calls

    def _call(self, deltas: list[Delta]) -> bool:
        start = self._start()
        begins = self._begins(start)
        if begins is None or self._full:
            return False
        if self.format.name_first and (head := self._head.match(self._buffer, start)):
            self._begin(deltas, head["name"])
            self._arguments = _JsonEnd()
            self._buffer = self._buffer[head.end() :]
            return True
        end = start + 1
        if begins and self.format.is_object:
            length = _JsonEnd().find(self._buffer[start:])
            if length is None:
                return False
            end = start + length
            if call := self._read(self._buffer[start:end]):
                self._begin(deltas, *call)
                self._buffer = self._buffer[end:]
                return True
        if self.count:
            return False
        deltas.append(self._buffer[:end])
        self._buffer = self._buffer[end:]
        self._in_calls = self._at_start = False
        return True

    def _start(self) -> int:
        """Return the length of what is before or between calls."""
        match = self._skipped.match(self._buffer)
        return match.end() if match else 0

    def _begins(self, start: int) -> bool | None:
        """Return True if a call begins at `start`, and None if that is not decided yet."""
        rest = "".join(self._buffer[start : start + 300].split())
        if any(rest.startswith(text) for text in self._starts):
            return True
        return None if any(text.startswith(rest) for text in (*self._starts, *self._around)) else False

    def _pass_arguments(self, deltas: list[Delta]) -> bool:
        assert self._arguments
        length = self._arguments.find(self._buffer)
        text, self._buffer = self._buffer[:length], self._buffer[len(self._buffer) if length is None else length :]
        if text:
            deltas.append(CallDelta(self.count - 1, text))
        if length is not None:
            self._arguments = None
        return length is not None

    def _begin(self, deltas: list[Delta], name: str, arguments: str = "") -> None:
        # Nine letters and digits: Mistral's templates accept no other ids.
        deltas.append(CallDelta(self.count, "", uuid.uuid4().hex[:9], name))
        if arguments:
            deltas.append(CallDelta(self.count, arguments))
        self.count += 1

    def _read(self, text: str) -> tuple[str, str] | None:
        """Return name and arguments of a call, whatever the order of its keys."""
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            return None
        value = value["function"] if isinstance(value.get("function"), dict) else value
        arguments = value.get("arguments", value.get("parameters", {}))
        if value.get("name") not in self.names or not isinstance(arguments, dict | str):
            return None
        return value["name"], arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)

    @property
    def _full(self) -> bool:
        return self.limit is not None and self.count >= self.limit

    def _bare(self, text: str) -> str:
        """Return a text without markers and white space."""
        for marker in self.format.markers:
            text = text.replace(marker, "")
        return "".join(text.split())

    def _lenient(self, text: str) -> str:
        """Return a pattern for `text` with any white space, and with or without its markers."""
        known = "|".join(map(re.escape, sorted(self.format.markers, key=len, reverse=True))) or r"(?!)"
        patterns = []
        for piece in re.findall(rf"{known}|{ID}|[{{}}\[\],:]|(?:(?!{known})[^\s{{}}\[\],:{ID}])+", text):
            pattern = r"[\w-]+" if piece == ID else re.escape(piece)
            patterns.append(f"(?:{pattern})?" if piece in self.format.markers else pattern)
        return r"\s*+".join(["", *patterns, ""])  # possessive: a long run of white space costs its length only

    def _between(self) -> list[str]:
        """Return patterns for all that may be before, between and after calls."""
        texts = (self.format.opener, self.format.tail, self.format.separator or "", self.format.closer)
        patterns = [self._lenient(text) for text in sorted(texts, key=len, reverse=True)]
        # The others are markers and white space only.
        with_words = [rf"(?=\S){pattern}" for pattern in patterns if not re.fullmatch(pattern, "")]
        # Punctuation, unless it may become a marker.
        begun = [re.escape(marker[:length]) for marker in self.format.markers for length in range(1, len(marker))]
        return [
            *with_words,
            *map(re.escape, self.format.markers),
            rf"(?!(?:{'|'.join(begun) or '(?!)'})\Z)[\s\[\],;}}]",
        ]


class _JsonEnd:
    """Finds the end of a JSON object that comes in pieces."""

    def __init__(self) -> None:
        self._depth = 0
        self._in_string = self._escaped = False

    def find(self, text: str) -> int | None:
        """Return the length of the part of the next text that belongs to the object; None: all, and more follows."""
        for position, character in enumerate(text):
            if self._escaped:
                self._escaped = False
            elif self._in_string:
                self._escaped, self._in_string = character == "\\", character != '"'
            elif character == '"':
                self._in_string = True
            elif character in "{[":
                self._depth += 1
            elif character in "}]":
                self._depth -= 1
                if self._depth == 0:
                    return position + 1
        return None


def _decided(text: str, trigger: str) -> int:
    """Return the length of `text` without white space at its end and without the beginning of `trigger`."""
    return len(text[: len(text) - overlap(text, trigger)].rstrip())
