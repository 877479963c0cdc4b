"""Read conversations in their common formats into the messages of a chat template."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from phi_runtime.data.chatgpt import messages_of_export
from phi_runtime.data.messages import SHAPE_FIX, SPEAKER_KEYS, TOOLS, Message, parsed, read_message
from phi_runtime.data.row import RowError

SYSTEM = "system"
"""Column next to the conversation with the text of a system message."""
_EXCHANGE = ("user", "assistant")
UNANSWERED = "end with a message that has no trained answer, and which is dropped"


@dataclass(frozen=True)
class ChatRow:
    """The messages of a row, up to its last trained answer.

    Attributes:
        messages: Messages as chat templates read them: contents are text, arguments of tool calls are objects.
        trained: True for each message that is a trained answer.
        masked: True for each answer that the row excludes: its loss is not trained even where all text is.
        tools: Function schemas that the assistant may call.
        remarks: What the row has and is not trained.
    """

    messages: list[Message]
    trained: list[bool]
    masked: list[bool]
    tools: list[Any] | None = None
    remarks: tuple[str, ...] = ()


def conversation_of(values: Mapping[str, Any], columns: Sequence[str]) -> ChatRow:
    """Return the conversation of a row.

    Args:
        values: The row. Its columns `system` and `tools` belong to the conversation.
        columns: Column with the messages: a list in OpenAI's format ({"role", "content"}) or ShareGPT's ({"from",
            "value"}), the same as JSON text, or the `mapping` of a ChatGPT export. Several columns follow one another,
            such as TRL's `prompt` and `completion`, or `history` (pairs of texts), `instruction`, `input` and `output`; of
            them, only the answers in the last are trained, and a text is a message of the user, in the last column of the
            assistant.

    Raises:
        RowError: the conversation cannot be trained on.
    """
    if missing := [column for column in columns if column not in values]:
        raise RowError(f"this row has no column `{missing[0]}`", f"it has {', '.join(values) or 'none'}")
    turns: list[_Turn] = []
    column = ""
    try:
        for column in columns:
            last = column == columns[-1]
            read: list[_Turn] = []
            for item in _items(values, column, ("assistant" if last else "user") if len(columns) > 1 else ""):
                message, learned = read_message(item, len(turns) + len(read) + 1)
                read.append(_Turn(message, learned and last, message["role"] == "assistant" and not learned))
            turns = _followed(turns, read)
        return _conversation(turns, values)
    except RowError as e:
        raise RowError(f"`{column}` {e}", e.fix) from None


def _followed(turns: list[_Turn], read: list[_Turn]) -> list[_Turn]:
    """Return the turns of one column after those of the columns before it.

    A conversation may repeat these, as `chosen` repeats `prompt`; texts of the user that follow one another are one message.
    """
    earlier = [turn.message for turn in turns]
    if len(read) > len(turns) and [turn.message for turn in read[: len(turns)]] == earlier:
        return read
    if len(read) == 1 and turns and read[0].message["role"] == earlier[-1]["role"] == "user":
        text = f"{earlier[-1]['content']}\n{read[0].message['content']}"
        return [*turns[:-1], turns[-1]._replace(message={**earlier[-1], "content": text})]
    return turns + read


class _Turn(NamedTuple):
    message: Message
    trained: bool
    masked: bool


def _conversation(turns: list[_Turn], values: Mapping[str, Any]) -> ChatRow:
    end = next((i for i in range(len(turns), 0, -1) if turns[i - 1].trained), 0)
    if not end:
        if any(turn.message["role"] == "assistant" for turn in turns):
            raise RowError("has no answer that is trained")
        raise RowError("has no message of the assistant, so there is no answer to train on")
    remarks = () if end == len(turns) else (UNANSWERED,)
    turns = turns[:end]
    _link([turn.message for turn in turns])
    system = values.get(SYSTEM)
    if isinstance(system, str) and system.strip() and turns[0].message["role"] != "system":
        turns = [_Turn({"role": "system", "content": system}, trained=False, masked=False), *turns]
    messages, trained, masked = map(list, zip(*turns, strict=True))
    return ChatRow(messages, trained, masked, _tools_of(values.get(TOOLS)), remarks)


def columns_of_messages(values: Mapping[str, Any], usual: Sequence[str]) -> tuple[str, ...]:
    """Return the columns of a row that hold a conversation: `usual` names first; empty if there is none.

    `prompt` and `completion` of TRL are two.
    """
    if "mapping" in values and _is_export(values, "mapping"):
        return ("mapping",)
    if holds_messages(values.get("prompt")) and "completion" in values:
        return ("prompt", "completion")
    names = [name for name in usual if isinstance(values[name], list) or holds_messages(values[name])]
    names += [name for name, value in values.items() if name not in usual and holds_messages(value)]
    return tuple(names[:1])


def holds_messages(value: Any) -> bool:
    """Return True if a cell is a list of messages or its text, valid or not."""
    if isinstance(value, str):
        if not value.lstrip().startswith("[{"):
            return False
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return any(f"'{key}'" in value or f'"{key}"' in value for key in SPEAKER_KEYS)
    if not isinstance(value, list) or not value or not isinstance(value[0], dict):
        return False
    return any(key in value[0] for key in SPEAKER_KEYS)


def text_of(message: Message) -> str:
    """Return the text of a message; empty if it only calls a tool."""
    return str(message["content"] or "")


def _items(values: Mapping[str, Any], column: str, speaker: str) -> list[Any]:
    """Return the messages in a cell; a plain text is a message of the `speaker`."""
    value = values[column]
    if speaker == "user" and value in (None, "", []):
        return []
    if _is_export(values, column):
        return messages_of_export(value, values["current_node"])
    if isinstance(value, str):
        if speaker and not holds_messages(value) and not value.lstrip().startswith("[["):
            return [{"role": speaker, "content": value}]
        value = parsed(value, "is text; expected a list of messages")
    if speaker == "user" and isinstance(value, list) and value and all(map(_is_exchange, value)):
        return [{"role": role, "content": text} for pair in value for role, text in zip(_EXCHANGE, pair, strict=True)]
    if not isinstance(value, list) or not value:
        raise RowError(f"is {'empty' if value == [] else type(value).__name__}; expected a list of messages", SHAPE_FIX)
    return value


def _is_exchange(value: Any) -> bool:
    """Return True for a question and its answer, as in the column `history` of LLaMA-Factory."""
    return isinstance(value, list) and len(value) == 2 and all(isinstance(text, str) for text in value)


def _is_export(values: Mapping[str, Any], column: str) -> bool:
    """Return True if a column is the tree of messages of a ChatGPT export."""
    tree, last = values[column], values.get("current_node")
    return isinstance(tree, dict) and isinstance(last, str) and isinstance(tree.get(last), dict)


def _link(messages: list[Message]) -> None:
    """Give results of tools the ids of the calls before them, in order, where they have none."""
    waiting: list[dict[str, Any]] = []
    for message in messages:
        if message["role"] == "assistant":
            waiting = list(message.get("tool_calls", ()))
        elif message["role"] == "tool" and waiting:
            call = waiting.pop(0)
            if str(call.get("id")).startswith("call") and "tool_call_id" not in message:
                message["tool_call_id"] = call["id"]
                message.setdefault("name", call["function"]["name"])


def _tools_of(value: Any) -> list[Any] | None:
    """Return the function schemas of the column `tools`, given as a list or as JSON text, in OpenAI's form."""
    what = "has `tools` that are not JSON"
    if isinstance(value, str):
        value = parsed(value, what) if value.strip() else None
    if value in (None, []):
        return None
    tools: list[Any] = value if isinstance(value, list) else [None]
    tools = [parsed(tool, what) if isinstance(tool, str) and tool.lstrip().startswith("{") else tool for tool in tools]
    if not all(isinstance(tool, dict) and isinstance(tool.get("function", tool), dict) for tool in tools):
        raise RowError("has `tools` that are not a list of function schemas")
    return [tool if "function" in tool else _wrapped(tool) for tool in tools]


def _wrapped(function: dict[str, Any]) -> dict[str, Any]:
    return {"type": "function", "function": {key: value for key, value in function.items() if key != "type"}}
