"""Read one message of a conversation: its role, text, reasoning and tool calls."""

from __future__ import annotations

import ast
import json
from typing import Any

from phi_runtime.core.suggestions import nearest
from phi_runtime.data.row import RowError

Message = dict[str, Any]

CALL = "function_call"
ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "chatbot": "assistant",
    "ai": "assistant",
    "model": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "claude": "assistant",
    "tool": "tool",
    "tool_response": "tool",
    "tool_results": "tool",
    "function": "tool",
    "function_response": "tool",
    "observation": "tool",
    "ipython": "tool",
    CALL: CALL,
    "tool_call": CALL,
}
"""The role of a speaker by its name, in `role` or in ShareGPT's `from`. `CALL` is the assistant, with calls as JSON text."""

TOOLS = "tools"
SPEAKER_KEYS = ("role", "from")
_CONTENT_KEYS = ("content", "value", "parts")
_CARRIED = ("name", "tool_call_id")
_REASONING_KEYS = ("reasoning_content", "reasoning", "thinking")
# Content parts of one message, by their `type`; True: reasoning.
_PARTS = {
    "text": False,
    "input_text": False,
    "output_text": False,
    "refusal": False,
    "reasoning": True,
    "reasoning_text": True,
    "thinking": True,
}
SHAPE = '[{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}]'
SHAPE_FIX = f"write the messages as {SHAPE}"


def read_message(item: Any, number: int) -> tuple[Message, bool]:
    """Return a message, and True if it is an answer to train on."""
    if not isinstance(item, dict):
        raise RowError(f"has a message {number} that is not an object", SHAPE_FIX)
    role = _role(item, number)
    content, reasoning = _content(item, role, number)
    calls = _calls(item, content, role, number)
    if role == CALL:
        role, content = "assistant", ""
    message: Message = {"role": role, "content": content or ""}
    message |= {key: item[key] for key in _CARRIED if item.get(key)}
    if calls:
        message["tool_calls"] = calls
    if reasoning:
        message["reasoning_content"] = reasoning
    if role == "system" and isinstance(item.get(TOOLS), str):  # in the form of Phi-4-mini
        message[TOOLS] = item[TOOLS]
    learned = _is_trained(item, role, number)
    if content is None and not calls:
        raise RowError(f"has no content in message {number}")
    if learned and not (content or "").strip() and not calls:
        raise RowError(f"has an empty answer in message {number}")
    return message, learned


def _role(item: dict[str, Any], number: int) -> str:
    key = next((key for key in SPEAKER_KEYS if item.get(key) is not None), None)
    key = key or next((key for key in SPEAKER_KEYS if key in item), None)
    if key is None:
        what = f"has neither `role` and `content` nor `from` and `value` in message {number}"
        raise RowError(what, SHAPE_FIX)
    name = item[key]
    folded = str(name).strip().casefold().replace(" ", "_").replace("-", "_")
    if folded not in ROLES:
        near = nearest(str(name), ROLES)
        what = f"has the {'role' if key == 'role' else 'speaker'} {name!r:.40} in message {number}, which is unknown"
        raise RowError(what + (f" (did you mean `{near}`?)" if near else ""), "use system, user, assistant or tool")
    return ROLES[folded]


def _content(item: dict[str, Any], role: str, number: int) -> tuple[str | None, str]:
    """Return text and reasoning of a message."""
    content = next((item[key] for key in _CONTENT_KEYS if item.get(key) is not None), item.get("refusal"))
    reasoning = next((item[key] for key in _REASONING_KEYS if item.get(key)), "")
    if not isinstance(reasoning, str):
        raise RowError(f"has reasoning in message {number} that is not text")
    if role in ("tool", CALL) and not isinstance(content, str | None) and not _has_parts(content):
        return json.dumps(content, ensure_ascii=False), reasoning
    if isinstance(content, list):
        content, in_parts = _joined(content, number)
        reasoning = reasoning or in_parts
    if content is not None and not isinstance(content, str):
        raise RowError(f"has {content!r:.40} as content of message {number}; expected text")
    return content, reasoning


def _has_parts(content: Any) -> bool:
    return isinstance(content, list) and all(
        isinstance(part, dict) and str(part.get("type")) in _PARTS for part in content
    )


def _joined(parts: list[Any], number: int) -> tuple[str, str]:
    """Join the content parts of a message: the text, and the reasoning."""
    texts: tuple[list[str], list[str]] = ([], [])
    for part in parts:
        if isinstance(part, str):
            texts[0].append(part)
            continue
        kind = part.get("type", "text") if isinstance(part, dict) else type(part).__name__
        if not isinstance(part, dict) or not isinstance(kind, str) or kind not in _PARTS:
            what = f"has the content part {kind!s:.40} in message {number}; only text is trained"
            raise RowError(what, "remove such parts, or the rows that need them")
        text = next((part[key] for key in (kind, "text", "value", "content") if part.get(key) is not None), None)
        if isinstance(text, list):  # of parts of text, as Mistral writes reasoning
            text = _joined(text, number)[0]
        if not isinstance(text, str):
            raise RowError(f"has a content part `{kind}` without text in message {number}")
        texts[_PARTS[kind]].append(text)
    return "".join(texts[0]), "".join(texts[1])


def _is_trained(item: dict[str, Any], role: str, number: int) -> bool:
    """Return True for an answer, unless OpenAI's `weight` or axolotl's `train` is off."""
    train, weight = item.get("train"), item.get("weight")
    if role != "assistant":
        if train is True:
            raise RowError(f"has `train: true` in message {number} of the {role}; only answers are trained")
        return False
    if train not in (None, False, True):
        raise RowError(f"has {train!r:.40} as `train` of message {number}; expected true or false")
    if weight not in (None, 0, 1):
        raise RowError(f"has the weight {weight!r:.40} in message {number}", "use 0 or 1: an answer is trained or not")
    return train is not False and weight != 0


def _calls(item: dict[str, Any], content: str | None, role: str, number: int) -> list[Any]:
    """Return the tool calls of a message, in OpenAI's form with arguments as objects."""
    if role == CALL:
        value: Any = parsed(content or "", f"has a call in message {number} that is not JSON")
    elif item.get("tool_calls"):
        value = item["tool_calls"]
        value = (
            parsed(value, f"has `tool_calls` in message {number} that are not JSON")
            if isinstance(value, str)
            else value
        )
    else:
        value = item.get(CALL) or []
    calls = value if isinstance(value, list) else [value]
    if calls and role not in ("assistant", CALL):
        raise RowError(f"has tool calls in message {number} of the {role}; only the assistant calls")
    made = role == CALL or not item.get("tool_calls")
    return [_call(call, f"call{number:03}{i:02}" if made else None, number) for i, call in enumerate(calls)]


def _call(call: Any, new_id: str | None, number: int) -> dict[str, Any]:
    function = call.get("function", call) if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise RowError(f"has a call in message {number} without the name of a function")
    key = "arguments" if "arguments" in function or "parameters" not in function else "parameters"
    arguments = function.get(key)
    if isinstance(arguments, str):
        what = f"has arguments of `{function['name']:.40}` in message {number} that are not JSON"
        arguments = parsed(arguments, what) if arguments.strip() else {}
    if not isinstance(arguments, dict | None):
        raise RowError(f"has arguments of `{function['name']:.40}` in message {number} that are not an object")
    if function is call:
        function = {"name": function["name"], "arguments": arguments or {}}
        call = {"type": "function", "function": function} | ({"id": call["id"]} if call.get("id") else {})
    else:
        call = {k: v for k, v in call.items() if v is not None} | {"function": function | {key: arguments or {}}}
    return {"id": new_id, **call} if new_id and "id" not in call else call


def parsed(text: str, what: str) -> Any:
    """Return the value of JSON text. Raises RowError, which says `what` is wrong."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        if _is_python(text):
            raise RowError("is Python text, not JSON", "write it with json.dumps, not with str") from None
        raise RowError(what, SHAPE_FIX) from None


def _is_python(text: str) -> bool:
    try:
        return isinstance(ast.literal_eval(text.strip()), list | dict)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return False
