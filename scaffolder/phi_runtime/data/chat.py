"""Read conversations in their common formats into the messages of a chat template."""

from __future__ import annotations

import json
from typing import Any

from phi_runtime.core.suggestions import nearest

Message = dict[str, Any]

ROLES = ("system", "developer", "user", "assistant", "tool")
# Speakers of ShareGPT and its relatives, where a message is {"from": …, "value": …}.
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
# Columns next to the conversation: the text of a system message, and the tools that the assistant may call.
SYSTEM, TOOLS = "system", "tools"
_CARRIED = ("name", "tool_calls", "tool_call_id", "reasoning_content")


class ChatError(ValueError):
    """A conversation that cannot be trained on."""


def messages_of(value: Any, system: Any = None) -> list[Message]:
    """Return the messages of a conversation, up to the last one of the assistant.

    Args:
        value: The cell of a row: a list in OpenAI's format ({"role", "content"}) or ShareGPT's ({"from", "value"}), or
            the same as JSON text.
        system: Text of a system message to put first, if the conversation has none.

    Raises:
        ChatError: the conversation cannot be trained on.
    """
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise ChatError("is text; expected a list of messages") from None
    if not isinstance(value, list) or not value:
        raise ChatError(f"is {'empty' if value == [] else type(value).__name__}; expected a list of messages")
    messages = [_message(item, number) for number, item in enumerate(value, start=1)]
    if isinstance(system, str) and system.strip() and messages[0]["role"] != "system":
        messages.insert(0, {"role": "system", "content": system})
    answers = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
    if not answers:
        raise ChatError("has no message of the assistant, so there is no answer to train on")
    return messages[: answers[-1] + 1]


def tools_of(value: Any) -> list[Any] | None:
    """Return the function schemas of the column `tools`, given as a list or as JSON text.

    Raises:
        ChatError: the cell is something else.
    """
    if isinstance(value, str) and value:
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise ChatError("has `tools` that are not JSON") from None
    if value in (None, "", []):
        return None
    if not isinstance(value, list) or not all(isinstance(tool, dict) for tool in value):
        raise ChatError("has `tools` that are not a list of function schemas")
    return value


def text_of(message: Message) -> str:
    """Return the text of a message; empty if it only calls a tool."""
    return str(message["content"] or "")


def _message(item: Any, number: int) -> Message:
    if not isinstance(item, dict):
        raise ChatError(f"has a message {number} that is not an object")
    if "role" in item:
        role, content = item["role"], item.get("content")
        if role not in ROLES:
            raise ChatError(_unknown(f"has the role {role!r:.40} in message {number}", role, ROLES))
    elif "from" in item:
        role, content = SPEAKERS.get(str(item["from"]).casefold()), item.get("value")
        if role is None:
            raise ChatError(
                _unknown(f"has the speaker {item['from']!r:.40} in message {number}", item["from"], SPEAKERS)
            )
    else:
        raise ChatError(f"has neither `role` and `content` nor `from` and `value` in message {number}")
    if isinstance(content, list):
        content = _joined(content, number)
    carried = {key: item[key] for key in _CARRIED if item.get(key)}
    if content is None and "tool_calls" not in carried:
        raise ChatError(f"has no content in message {number}")
    if content is not None and not isinstance(content, str):
        raise ChatError(f"has {content!r:.40} as content of message {number}; expected text")
    if role == "assistant" and not (content or "").strip() and "tool_calls" not in carried:
        raise ChatError(f"has an empty answer in message {number}")
    return {"role": role, "content": content or "", **carried}


def _joined(parts: list[Any], number: int) -> str:
    """Join the text parts of a message (OpenAI's format with content parts)."""
    if not all(isinstance(p, dict) and p.get("type") == "text" and isinstance(p.get("text"), str) for p in parts):
        raise ChatError(f"has content other than text in message {number}")
    return "".join(p["text"] for p in parts)


def _unknown(what: str, name: Any, known: Any) -> str:
    near = nearest(str(name), list(known))
    return f"{what}, which is unknown" + (f" (did you mean `{near}`?)" if near else "")
