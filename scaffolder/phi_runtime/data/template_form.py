"""Detect which parts of messages a chat template writes, and in which form it reads tools, by rendering probes.

transformers documents arguments of calls as objects, and tools as the variable `tools` ("Tool use" in its guide on chat). Some
templates of DeepSeek read OpenAI's form, arguments as JSON text and content null; Phi-4-mini's reads tools in the system message.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

from phi_runtime.data.messages import TOOLS, Message
from phi_runtime.data.template import RowError

Render = Callable[[Sequence[Message], list[Any] | None], str]
"""Returns the text of messages and tools. Raises RowError."""

_NAME, _KEY, _VALUE = "probe_function", "probe_key", "probe value"
_USER: Message = {"role": "user", "content": "Hello"}
_CALL: Message = {
    "role": "assistant",
    "content": "",
    # Mistral's templates require an id of nine letters and digits.
    "tool_calls": [{"id": "probe0001", "type": "function", "function": {"name": _NAME, "arguments": {_KEY: _VALUE}}}],
}
_RESULT: Message = {"role": "tool", "content": _VALUE, "tool_call_id": "probe0001", "name": _NAME}
_TOOLS = [
    {
        "type": "function",
        "function": {
            "name": _NAME,
            "description": "A probe.",
            "parameters": {"type": "object", "properties": {_KEY: {"type": "string", "description": "A probe."}}},
        },
    }
]

_FORMS: tuple[tuple[Literal["object", "text"], bool], ...] = (("object", False), ("text", False), ("text", True))


@dataclass(frozen=True)
class TemplateForm:
    """The parts of messages that a chat template writes.

    Attributes:
        arguments: Form in which it reads the arguments of tool calls; None: it does not write calls.
        null_content: True if it writes calls only of a message whose content is null.
        tools: Where it reads the schemas of tools; None: it does not write them.
        results: True if it writes messages of the role tool.
        reasoning: True if it writes `reasoning_content` of the last answer.
        names: True if it writes `name` of a user.
    """

    arguments: Literal["object", "text"] | None
    null_content: bool
    tools: Literal["variable", "system"] | None
    results: bool
    reasoning: bool
    names: bool

    def apply(self, messages: Sequence[Message], tools: list[Any] | None) -> tuple[list[Message], list[Any] | None]:
        """Return messages and tools in the form that the template reads."""
        messages = _formed(messages, text=self.arguments == "text", null=self.null_content)
        if self.tools == "system" and tools:
            return _with_tools_in_system(messages, tools), None
        return list(messages), tools


def form_of(render: Render) -> TemplateForm:
    """Return the form of the template that `render` renders."""
    answer: Message = {"role": "assistant", "content": "Hi"}
    arguments, null_content = None, False
    called: list[Message] = [_USER, _CALL]
    for form, null in _FORMS:
        messages = _formed([_USER, _CALL], text=form == "text", null=null)
        if _writes_call(_rendered(render, messages)):
            arguments, null_content, called = form, null, messages
            break
    tools: Literal["variable", "system"] | None = None
    if _NAME in _rendered(render, [_USER], _TOOLS):
        tools = "variable"
    elif _NAME in _rendered(render, _with_tools_in_system([_USER], _TOOLS)):
        tools = "system"
    return TemplateForm(
        arguments,
        null_content,
        tools,
        # Its content differs from that of the call.
        results="probe result" in _rendered(render, [*called, _RESULT | {"content": "probe result"}, answer]),
        reasoning=_VALUE in _rendered(render, [_USER, answer | {"reasoning_content": _VALUE}]),
        names=_NAME in _rendered(render, [_USER | {"name": _NAME}, answer]),
    )


def _writes_call(text: str) -> bool:
    """Return True if a text has the call, and not as a Python object."""
    return _NAME in text and _KEY in text and _VALUE in text and f"'{_KEY}'" not in text


def _rendered(render: Render, messages: Sequence[Message], tools: list[Any] | None = None) -> str:
    """Return the text of messages; empty if the template rejects them."""
    with suppress(RowError):
        return render(messages, tools)
    return ""


def _formed(messages: Sequence[Message], *, text: bool, null: bool) -> list[Message]:
    """Return messages with the arguments of calls as JSON text if `text`, and with null for no content if `null`."""
    result = []
    for message in messages:
        if calls := message.get("tool_calls"):
            message = message | {"tool_calls": [_as_text(call) for call in calls] if text else calls}
            message |= {"content": None} if null and not message["content"] else {}
        result.append(message)
    return result


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
