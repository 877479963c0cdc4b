"""The form in which a chat template writes tools and tool calls, read from what it renders for a probe.

Hermes, Qwen: <tool_call>{"name": …, "arguments": …}</tool_call>; Llama 3.1: {"name": …, "parameters": …}; Mistral:
[TOOL_CALLS] [{…}], or [TOOL_CALLS]name[ARGS]{…}; Phi-4-mini: <|tool_call|>[{…}]<|/tool_call|>.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from phi_runtime.core.common_prefix import common_prefix
from phi_runtime.data.chat_template import ChatTemplate
from phi_runtime.data.row import RowError
from phi_runtime.data.template_form import PROBE_KEY, PROBE_QUESTION, probe_tool

ID = "\ue000"
"""Where a text of a format has the id of a call."""


@dataclass(frozen=True)
class ToolFormat:
    """The texts around the tool calls of an answer: opener, calls with separators, closer.

    A call is `head`, the name, `middle`, the arguments as JSON, `tail`; if not `name_first`, the arguments come first.

    Attributes:
        separator: None if the template accepts one call per message only.
        is_object: True if a call is a JSON object.
        markers: Tokens that are no text, as far as they are in the texts; an answer may lack those that are special tokens.
    """

    opener: str
    head: str
    middle: str
    tail: str
    separator: str | None
    closer: str
    name_first: bool
    is_object: bool
    markers: tuple[str, ...]

    @property
    def trigger(self) -> str:
        """Text that begins calls anywhere in an answer: through the first marker. Empty: only its start can be a call."""
        opener = self.opener.strip()
        ends = [opener.find(marker) + len(marker) for marker in self.markers if marker in opener]
        return opener[: min(ends, default=len(opener))]


_NAMES = ("first_probe", "second_probe")
_ARGUMENTS = ({PROBE_KEY: "value one"}, {PROBE_KEY: "value two"})
_IDS = ("Ab1Cd2Ef3", "Gh4Ij5Kl6")  # nine letters and digits, as Mistral's templates require
_TOOLS = [probe_tool(name) for name in _NAMES]


def tool_format(template: ChatTemplate) -> ToolFormat | None:
    """Return the format of a template, or None if it does not write tools, or calls in a form that is not known here."""
    if template.form.tools is None or template.form.calls is None:
        return None
    try:
        prompt = template.render([PROBE_QUESTION], _TOOLS, add_generation_prompt=True)
        turn = _turn(template, prompt, 1)
    except RowError:
        return None
    if (call := _Call.find(turn, 0)) is None:
        return None
    separator, end = None, call.end
    with suppress(RowError):
        both = _turn(template, prompt, 2)
        if second := _Call.find(both, 1):
            turn, end = both, second.end
            separator = _without_ids(both[call.end : second.start])
    texts = [_without_ids(text) for text in (turn[: call.start], *call.texts(turn), turn[end:])]
    opener, head, middle, tail, closer = texts
    return ToolFormat(
        opener,
        head,
        middle,
        tail,
        separator,
        closer,
        name_first=call.name < call.arguments,
        is_object=call.is_object,
        markers=tuple(
            marker for marker in template.markers if any(marker in text for text in (*texts, separator or ""))
        ),
    )


def _turn(template: ChatTemplate, prompt: str, count: int) -> str:
    """Return the text of an assistant's turn with `count` calls. Raises RowError."""
    calls = [
        {"id": _IDS[i], "type": "function", "function": {"name": _NAMES[i], "arguments": _ARGUMENTS[i]}}
        for i in range(count)
    ]
    answer = {"role": "assistant", "content": "", "tool_calls": calls}
    text = template.render([PROBE_QUESTION, answer], _TOOLS, add_generation_prompt=False)
    return text[common_prefix(text, prompt) :]


@dataclass(frozen=True)
class _Call:
    """The places of a call in a text: start, end, and the spans of the name and of the arguments."""

    start: int
    end: int
    name: tuple[int, int]
    arguments: tuple[int, int]
    is_object: bool

    @classmethod
    def find(cls, text: str, number: int) -> _Call | None:
        """Return the call of the probe `number`."""
        name = text.find(_NAMES[number])
        arguments = next(((start, end) for start, end, value in _objects(text) if value == _ARGUMENTS[number]), None)
        if name < 0 or arguments is None:
            return None
        span = name, name + len(_NAMES[number])
        around = [
            (start, end)
            for start, end, value in _objects(text)
            if start < name < end and _NAMES[number] in value.values() and _ARGUMENTS[number] in value.values()
        ]
        if around:
            return cls(*around[-1], span, arguments, True)
        if name < arguments[0]:
            return cls(name, arguments[1], span, arguments, False)
        return None

    def texts(self, text: str) -> tuple[str, str, str]:
        """Return head, middle and tail."""
        first, second = sorted([self.name, self.arguments])
        return text[self.start : first[0]], text[first[1] : second[0]], text[second[1] : self.end]


def _objects(text: str) -> Iterator[tuple[int, int, dict[str, Any]]]:
    """Yield the JSON objects in a text, with their places; an inner one comes after the one around it."""
    decoder = json.JSONDecoder()
    for start, character in enumerate(text):
        if character == "{":
            with suppress(ValueError):
                value, end = decoder.raw_decode(text, start)
                yield start, end, value


def _without_ids(text: str) -> str:
    for number in _IDS:
        text = text.replace(number, ID)
    return text
