"""Conversations in the forms that people have them, as the messages that a chat template takes."""

from __future__ import annotations

import json
from typing import Any

from phi_runtime.core.suggestions import nearest

Message = dict[str, Any]

ROLES = ("system", "developer", "user", "assistant", "tool")
# The speakers of ShareGPT and of those who copied its form, where a message is {"from": …, "value": …}.
SPEAKERS = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "bot": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "model": "assistant",
    "system": "system",
    "tool": "tool",
    "function_response": "tool",
    "observation": "tool",
}
# Columns beside the conversation: the text of a system message, and the tools that the assistant may call.
SYSTEM, TOOLS = "system", "tools"
_CARRIED = ("name", "tool_calls", "tool_call_id", "reasoning_content")


class ChatFault(ValueError):
    """A conversation that cannot be trained on."""


def messages_of(value: Any, system: Any = None) -> list[Message]:
    """`value`, the cell of a row, as messages with `role` and `content`, up to the last that the assistant said.

    OpenAI's form ({"role", "content"}) and ShareGPT's ({"from", "value"}) are read, also as JSON in a text. `system` is the text of
    a system message before them. Raises ChatFault.
    """
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise ChatFault("holds a text where a list of messages is expected") from None
    if not isinstance(value, list) or not value:
        raise ChatFault(
            f"holds {'no message' if value == [] else type(value).__name__} where a list of messages is expected"
        )
    messages = [_message(item, number) for number, item in enumerate(value, start=1)]
    if isinstance(system, str) and system.strip() and messages[0]["role"] != "system":
        messages.insert(0, {"role": "system", "content": system})
    said = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
    if not said:
        raise ChatFault("has no message of the assistant: there is no answer to learn")
    return messages[: said[-1] + 1]


def tools_of(value: Any) -> list[Any] | None:
    """The cell of the column `tools`: a list of function schemas, also as JSON in a text. Raises ChatFault."""
    if isinstance(value, str) and value:
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise ChatFault("has `tools` that are not JSON") from None
    if value in (None, "", []):
        return None
    if not isinstance(value, list) or not all(isinstance(tool, dict) for tool in value):
        raise ChatFault("has `tools` that are not a list of function schemas")
    return value


def text_of(message: Message) -> str:
    """What a message says; empty where it only calls a tool."""
    return str(message["content"] or "")


def _message(item: Any, number: int) -> Message:
    if not isinstance(item, dict):
        raise ChatFault(f"has something other than an object as message {number}")
    if "role" in item:
        role, content = item["role"], item.get("content")
        if role not in ROLES:
            raise ChatFault(_unknown(f"has the role {role!r:.40} in message {number}", role, ROLES))
    elif "from" in item:
        role, content = SPEAKERS.get(str(item["from"]).casefold()), item.get("value")
        if role is None:
            raise ChatFault(
                _unknown(f"has the speaker {item['from']!r:.40} in message {number}", item["from"], SPEAKERS)
            )
    else:
        raise ChatFault(f"has neither `role` and `content` nor `from` and `value` in message {number}")
    if isinstance(content, list):
        content = _joined(content, number)
    carried = {key: item[key] for key in _CARRIED if item.get(key)}
    if content is None and "tool_calls" not in carried:
        raise ChatFault(f"says nothing in message {number}")
    if content is not None and not isinstance(content, str):
        raise ChatFault(f"holds {content!r:.40} where text is expected in message {number}")
    if role == "assistant" and not (content or "").strip() and "tool_calls" not in carried:
        raise ChatFault(f"has an empty answer in message {number}")
    return {"role": role, "content": content or "", **carried}


def _joined(parts: list[Any], number: int) -> str:
    """The texts of a message in parts, as OpenAI's newer form has it."""
    if not all(isinstance(p, dict) and p.get("type") == "text" and isinstance(p.get("text"), str) for p in parts):
        raise ChatFault(f"holds something other than text in message {number}")
    return "".join(p["text"] for p in parts)


def _unknown(what: str, name: Any, known: Any) -> str:
    near = nearest(str(name), list(known))
    return f"{what}, which is not known" + (f" (did you mean `{near}`?)" if near else "")
