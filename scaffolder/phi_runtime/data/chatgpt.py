"""Read the conversations of a ChatGPT export: a tree of messages, of which one path is shown."""

from __future__ import annotations

from typing import Any

from phi_runtime.data.row import RowError

_FIX = "remove this conversation, or write its messages manually"


def messages_of_export(mapping: dict[str, Any], last: str) -> list[dict[str, Any]]:
    """Return the messages of the path of `mapping` that ends in the node `last`, without hidden and empty ones.

    Raises:
        RowError: a message is something other than text.
    """
    path: list[dict[str, Any]] = []
    node, seen = mapping.get(last), {last}
    while isinstance(node, dict):
        if isinstance(node.get("message"), dict):
            path.insert(0, node["message"])
        parent = str(node.get("parent"))
        if parent in seen:
            raise RowError("is a tree of messages with a loop", _FIX)
        seen.add(parent)
        node = mapping.get(parent)
    messages = [message for message in map(_message, path) if message is not None]
    if not messages:
        raise RowError("is a tree without messages", _FIX)
    return messages


def _message(node: dict[str, Any]) -> dict[str, Any] | None:
    author, content, about = (node.get(key) or {} for key in ("author", "content", "metadata"))
    if not all(isinstance(value, dict) for value in (author, content, about)):
        raise RowError("has a message without author and content", _FIX)
    role, kind = author.get("role"), content.get("content_type")
    if about.get("is_visually_hidden_from_conversation") or kind in ("user_editable_context", "model_editable_context"):
        return None
    if kind != "text" or role == "tool" or node.get("recipient") not in (None, "all"):
        raise RowError(f"has a message of type `{kind}` of `{role}`; only text is trained", _FIX)
    parts = content.get("parts") or []
    if not isinstance(parts, list) or not all(isinstance(part, str) for part in parts):
        raise RowError("has a message with parts other than text; only text is trained", _FIX)
    text = "".join(parts)
    return {"role": role, "content": text} if text.strip() else None
