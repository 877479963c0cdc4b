"""The messages of a chat request, and their form for a chat template."""

from __future__ import annotations

import json
from typing import Any

from pydantic import BaseModel, ConfigDict

from phi_runtime.core.suggestions import did_you_mean
from phi_runtime.data.messages import ROLES
from phi_runtime.serving.errors import invalid
from phi_runtime.serving.fields import check_depth, check_keys

# Keys of messages in answers of OpenAI and others, which clients send back; they change nothing of the next answer.
_NO_EFFECT = ("annotations", "id", "parsed", "status")
NO_TOOLS = "the chat template of this model does not write tools; train on a template that does"
_TEXT_PARTS = ("text", "input_text", "output_text")


class CalledFunction(BaseModel):
    """The function and the arguments of a call; OpenAI writes the arguments as JSON text."""

    model_config = ConfigDict(strict=True)

    name: str
    arguments: str | dict[str, Any] = ""


class Call(BaseModel):
    """A tool call of an earlier answer."""

    model_config = ConfigDict(strict=True)

    id: str
    type: str | None = None
    function: CalledFunction


class Message(BaseModel):
    """One message of a conversation."""

    model_config = ConfigDict(strict=True, extra="allow")

    role: str
    content: Any = None
    refusal: str | None = None
    name: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[Call] | None = None
    tool_call_id: str | None = None


def template_messages(messages: list[Message], *, with_calls: bool) -> list[dict[str, Any]]:
    """Return the messages as a chat template reads them: contents as text, and the role developer as system.

    Args:
        messages: The messages of a request.
        with_calls: True if the template writes tool calls.

    Raises:
        ApiError: A message is not valid.
    """
    functions: dict[str, str] = {}  # names of the called functions by the ids of the calls
    result = []
    for number, message in enumerate(messages):
        where = f"messages[{number}]"
        check_keys(message.model_extra or {}, (*Message.model_fields, *_NO_EFFECT), where)
        entry: dict[str, Any] = {"role": _role(message, where), "content": _content(message, where)}
        if message.reasoning_content is not None:
            entry["reasoning_content"] = message.reasoning_content
        if not with_calls and (message.tool_calls or message.role == "tool"):
            where = f"{where}.{'tool_calls' if message.tool_calls else 'role'}"
            raise invalid(f"{where}: {NO_TOOLS}", where, "unsupported_parameter")
        if message.tool_calls:
            entry["tool_calls"] = [
                _call(call, f"{where}.tool_calls[{index}]") for index, call in enumerate(message.tool_calls)
            ]
            functions |= {call.id: call.function.name for call in message.tool_calls}
        if message.role == "tool":
            if message.tool_call_id not in functions:
                raise invalid(f"{where}.tool_call_id is the id of no tool call before it", f"{where}.tool_call_id")
            entry |= {"tool_call_id": message.tool_call_id, "name": functions[message.tool_call_id]}
        if message.name is not None:
            entry["name"] = message.name
        for key, value in entry.items():
            if isinstance(value, str):
                check_text(value, f"{where}.{key}")
        result.append(entry)
    return result


def check_text(text: str, where: str) -> None:
    """Raise ApiError for a lone UTF-16 surrogate, which JSON can express and no tokenizer accepts."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise invalid(f"{where} contains a lone UTF-16 surrogate", where) from None


_ROLES = {name: ROLES[name] for name in ("system", "developer", "user", "assistant", "tool")}


def _role(message: Message, where: str) -> str:
    if message.role not in _ROLES:
        near = did_you_mean(message.role[:60], _ROLES)
        raise invalid(f"{where}.role is {message.role!r:.60}; use {', '.join(_ROLES)}{near}", f"{where}.role")
    if message.tool_calls and message.role != "assistant":
        raise invalid(f"{where}.tool_calls is in a message of role {message.role}", f"{where}.tool_calls")
    return _ROLES[message.role]


def _content(message: Message, where: str) -> str:
    content, where = message.content, f"{where}.content"
    if content is None and message.role == "assistant":
        return message.refusal or ""
    if isinstance(content, list):
        return "".join(_part_text(part, message.role, where) for part in content)
    if not isinstance(content, str):
        raise invalid(f"{where} is not a string", where)
    return content


def _part_text(part: Any, role: str, where: str) -> str:
    kind = part.get("type") if isinstance(part, dict) else None
    key = "refusal" if kind == "refusal" and role == "assistant" else "text"
    if kind in (*_TEXT_PARTS, key) and isinstance(text := part.get(key), str):
        return text
    shown = f"a part of type {kind!r:.40}" if isinstance(kind, str) else "a part without type"
    raise invalid(f"{where} holds {shown}; this server reads text only", where)


def _call(call: Call, where: str) -> dict[str, Any]:
    if call.type not in (None, "function"):
        raise invalid(f"{where}.type is {call.type!r:.40}; use function", f"{where}.type")
    arguments = call.function.arguments
    where = f"{where}.function.arguments"
    try:
        value = json.loads(arguments or "{}") if isinstance(arguments, str) else arguments
        check_depth(value, where)
        json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        raise invalid(f"{where} is not JSON", where) from None
    if not isinstance(value, dict):
        raise invalid(f"{where} is not a JSON object", where)
    function = {"name": call.function.name, "arguments": value}
    return {"id": call.id, "type": "function", "function": function}
