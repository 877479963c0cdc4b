"""Detect which parts of messages a chat template writes, and in which form it reads tools, by rendering probes.

transformers documents arguments of calls as objects, and tools as the variable `tools` ("Tool use" in its guide on chat). Some
templates of DeepSeek read OpenAI's form, arguments as JSON text and content null; Phi-4-mini's reads tools in the system message.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

from phi_runtime.data.messages import TOOLS, Message
from phi_runtime.data.row import RowError

Render = Callable[[Sequence[Message], list[Any] | None], str]
"""Returns the text of messages and tools. Raises RowError."""

PROBE_KEY = "probe_key"
PROBE_QUESTION: Message = {"role": "user", "content": "Hello"}
_NAME, _VALUE = "probe_function", "probe value"
_CALL: Message = {
    "role": "assistant",
    "content": "",
    # Mistral's templates require an id of nine letters and digits.
    "tool_calls": [
        {"id": "probe0001", "type": "function", "function": {"name": _NAME, "arguments": {PROBE_KEY: _VALUE}}}
    ],
}
_RESULT: Message = {"role": "tool", "content": "probe result", "tool_call_id": "probe0001", "name": _NAME}
_ANSWER: Message = {"role": "assistant", "content": "Hi"}


def probe_tool(name: str) -> dict[str, Any]:
    """Return a function with the one argument `PROBE_KEY`."""
    properties = {PROBE_KEY: {"type": "string", "description": "A probe."}}
    parameters = {"type": "object", "properties": properties, "required": [PROBE_KEY]}
    return {"type": "function", "function": {"name": name, "description": "A probe.", "parameters": parameters}}


_TOOLS = [probe_tool(_NAME)]

CallForm = Literal["object", "text", "null", "content"]
"""Form of tool calls: arguments as an object; as JSON text; as JSON text, and content null; all in the text of the content."""

_FORMS: tuple[CallForm, ...] = ("object", "text", "null", "content")
# Phi-4-mini's template writes no calls, but its tokenizer has the tokens around them.
_OPENER, _CLOSER = "<|tool_call|>", "<|/tool_call|>"


@dataclass(frozen=True)
class TemplateForm:
    """The parts of messages that a chat template writes.

    Attributes:
        calls: Form in which it reads tool calls; None: it does not write them.
        tools: Where it reads the schemas of tools; None: it does not write them.
        results: True if it writes messages of the role tool.
        reasoning: True if it writes `reasoning_content` of the last answer.
        names: True if it writes `name` of a user.
    """

    calls: CallForm | None
    tools: Literal["variable", "system"] | None
    results: bool
    reasoning: bool
    names: bool

    def apply(self, messages: Sequence[Message], tools: list[Any] | None) -> tuple[list[Message], list[Any] | None]:
        """Return messages and tools in the form that the template reads."""
        formed = [_formed(message, self.calls or "object") for message in messages]
        if self.tools == "system" and tools:
            return _with_tools_in_system(formed, tools), None
        return formed, tools


def form_of(render: Render, markers: Collection[str]) -> TemplateForm:
    """Return the form of the template that `render` renders.

    Args:
        render: Renders messages and tools.
        markers: All tokens of the vocabulary that are not text.
    """
    forms = _FORMS if {_OPENER, _CLOSER} <= set(markers) else _FORMS[:-1]
    calls = next(
        (form for form in forms if _writes_call(_rendered(render, [PROBE_QUESTION, _formed(_CALL, form)]))), None
    )
    tools: Literal["variable", "system"] | None = None
    if _NAME in _rendered(render, [PROBE_QUESTION], _TOOLS):
        tools = "variable"
    elif _NAME in _rendered(render, _with_tools_in_system([PROBE_QUESTION], _TOOLS)):
        tools = "system"
    return TemplateForm(
        calls,
        tools,
        results=_RESULT["content"]
        in _rendered(render, [PROBE_QUESTION, _formed(_CALL, calls or "object"), _RESULT, _ANSWER]),
        reasoning=_VALUE in _rendered(render, [PROBE_QUESTION, _ANSWER | {"reasoning_content": _VALUE}]),
        names=_NAME in _rendered(render, [PROBE_QUESTION | {"name": _NAME}, _ANSWER]),
    )


def _writes_call(text: str) -> bool:
    """Return True if a text has the call, and not as a Python object."""
    return _NAME in text and PROBE_KEY in text and _VALUE in text and f"'{PROBE_KEY}'" not in text


def _rendered(render: Render, messages: Sequence[Message], tools: list[Any] | None = None) -> str:
    """Return the text of messages; empty if the template rejects them."""
    with suppress(RowError):
        return render(messages, tools)
    return ""


def _formed(message: Message, form: CallForm) -> Message:
    """Return a message with its tool calls in a form."""
    calls = message.get("tool_calls")
    if not calls or form == "object":
        return message
    if form == "content":
        functions = [{key: call["function"].get(key, {}) for key in ("name", "arguments")} for call in calls]
        rest = {key: value for key, value in message.items() if key != "tool_calls"}
        written = json.dumps(functions, ensure_ascii=False)
        return rest | {"content": f"{message['content'] or ''}{_OPENER}{written}{_CLOSER}"}
    content = None if form == "null" and not message["content"] else message["content"]
    return message | {"content": content, "tool_calls": [_as_text(call) for call in calls]}


def _as_text(call: dict[str, Any]) -> dict[str, Any]:
    function = call["function"]
    arguments = function.get("arguments", {})
    text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    return call | {"function": function | {"arguments": text}}


def _with_tools_in_system(messages: Sequence[Message], tools: list[Any]) -> list[Message]:
    system: Message = {"role": "system", "content": ""}
    if messages and messages[0]["role"] == "system":
        system, *messages = messages
    written = json.dumps([tool.get("function", tool) for tool in tools], ensure_ascii=False)
    return [{TOOLS: written, **system}, *messages]
