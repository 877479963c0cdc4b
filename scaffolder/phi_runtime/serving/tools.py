"""The tools of a chat request: their checks, and the guide of an answer that calls one of them."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from phi_runtime.core.suggestions import did_you_mean
from phi_runtime.inference.generator import Guide, InvalidGuide
from phi_runtime.inference.guides import require_bounded
from phi_runtime.serving.errors import invalid
from phi_runtime.serving.fields import check_keys
from phi_runtime.serving.messages import NO_TOOLS, check_text
from phi_runtime.serving.tool_calls import ToolCallParser
from phi_runtime.serving.tool_format import ID, ToolFormat
from phi_runtime.serving.wire import ServedModel

MAX_TOOLS = 128
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
# White space as a chat template writes it, and none that a small model never stops writing.
_JSON_OPTIONS = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


@dataclass(frozen=True)
class Tools:
    """The tools that an answer may call.

    Attributes:
        definitions: The tools, for the chat template.
        call_format: Format of the model's template.
        must_call: Names of the functions of which the answer calls one; empty if it may be text.
        limit: Most calls; None: no limit.
        strict: True if the arguments follow the schemas also where the answer may be text.
    """

    definitions: list[dict[str, Any]]
    call_format: ToolFormat
    must_call: tuple[str, ...]
    limit: int | None
    strict: bool

    @property
    def names(self) -> list[str]:
        return [tool["function"]["name"] for tool in self.definitions]

    def parser(self) -> ToolCallParser:
        """Return a parser for one answer."""
        return ToolCallParser(self.call_format, self.names, self.limit)

    def guide(self) -> Guide | None:
        """Return the constraint on the answer; None if it may be anything. Raises ApiError if it is too large."""
        if not self.must_call and not self.strict:
            return None
        grammar = _Grammar(self.call_format)
        called = [
            tool["function"] for tool in self.definitions if tool["function"]["name"] in (self.must_call or self.names)
        ]
        try:
            require_bounded([function.get("parameters") for function in called])
        except InvalidGuide as e:
            raise invalid(f"{e.what}: {e.fix}", "tools", "invalid_schema") from None
        call = " | ".join(grammar.call(number, function) for number, function in enumerate(called))
        opener, separator = grammar.text(self.call_format.opener), self.call_format.separator
        more = "" if self.must_call or self.limit or separator is None else f"({grammar.text(separator)} call)*"
        start = f"{opener} call {more}"
        if not self.must_call:
            start = f"text? | text? {start}"
            grammar.rules.append(f"text: TEXT\nTEXT: {grammar.text_before_calls()}")
        return Guide("lark", "\n".join([f"start: {start}", f"call: {call}", *grammar.rules]), tuple(grammar.tokens))


class _Grammar:
    """Rules in the Lark syntax of llguidance. `token_0`, … are the tokens of `tokens`, which the model's runtime defines."""

    def __init__(self, call_format: ToolFormat) -> None:
        self.format = call_format
        self.rules: list[str] = []
        self.tokens: list[str] = list(call_format.markers)

    def call(self, number: int, function: dict[str, Any]) -> str:
        """Return a call of `function`, and add the rule of its arguments."""
        self.rules.append(f"arguments_{number}: %json {json.dumps(_closed(function.get('parameters')))}")
        name, arguments, at = json.dumps(function["name"]), f"arguments_{number}", self.format
        first, second = (name, arguments) if at.name_first else (arguments, name)
        # Nothing is missing for the parser once a call ends with its arguments.
        tail = "" if at.name_first else self.text(at.tail)
        return f"{self.text(at.head)} {first} {self.text(at.middle)} {second} {tail}"

    def text(self, text: str) -> str:
        """Return a text as strings and tokens: a string never matches a token that is no text."""
        known = "|".join(map(re.escape, sorted(self.tokens, key=len, reverse=True))) or r"(?!)"
        pieces = re.split(f"({known})", text.replace(ID, "000000000"))
        return " ".join(
            f"token_{self.tokens.index(piece)}" if piece in self.tokens else json.dumps(piece, ensure_ascii=False)
            for piece in pieces
            if piece
        )

    def text_before_calls(self) -> str:
        """Return a pattern for text that does not begin a call."""
        trigger = self.format.trigger
        if not trigger:
            return r"/[ \t\r\n]*[^ \t\r\n{\[](.|\n)*/"
        quoted = re.sub(r"[^A-Za-z0-9_ ]", lambda match: rf"\x{{{ord(match[0]):x}}}", trigger)
        return rf"/(.|\n)*/ & ~/(.|\n)*{quoted}(.|\n)*/"


def read_tools(
    tools: list[dict[str, Any]] | None, choice: Any, parallel: bool | None, model: ServedModel
) -> Tools | None:
    """Return the tools of a request that its answer may call.

    Args:
        tools: The field `tools`.
        choice: The field `tool_choice`.
        parallel: The field `parallel_tool_calls`.
        model: The model that answers.

    Raises:
        ApiError: A field is not valid, or the model does not support it.
    """
    for number, tool in enumerate(tools or []):
        _check_tool(tool, f"tools[{number}]")
    names = [tool["function"]["name"] for tool in tools or []]
    if len(names) > MAX_TOOLS or len(set(names)) < len(names):
        raise invalid(f"tools accepts at most {MAX_TOOLS} functions with different names", "tools")
    must_call = _must_call(choice, names)
    if not tools or choice == "none":
        return None
    if model.tools is None:
        raise invalid(f"tools: {NO_TOOLS}", "tools", "unsupported_parameter")
    strict = next((i for i, tool in enumerate(tools) if tool["function"].get("strict")), None)
    if not model.guides and (must_call or strict is not None):
        field = "tool_choice" if must_call else f"tools[{strict}].function.strict"
        what = f"`{model.id}` does not support guided arguments; ONNX models do"
        raise invalid(what, field, "unsupported_parameter")
    functions = [{key: value for key, value in tool["function"].items() if key != "strict"} for tool in tools]
    definitions = [{"type": "function", "function": function} for function in functions]
    limit = 1 if must_call or parallel is False else None
    return Tools(definitions, model.tools, must_call, limit, strict is not None)


def _check_tool(tool: dict[str, Any], where: str) -> None:
    check_keys(tool, ("type", "function"), where)
    if tool.get("type", "function") != "function":
        raise invalid(f"{where}.type is {tool['type']!r:.40}; use function", f"{where}.type")
    function, where = tool.get("function"), f"{where}.function"
    if not isinstance(function, dict):
        raise invalid(f"{where} is not an object", where)
    check_keys(function, ("name", "description", "parameters", "strict"), where)
    name = function.get("name")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise invalid(f"{where}.name is not 1 to 64 letters, digits, _ or -", f"{where}.name")
    kinds: dict[str, type] = {"description": str, "parameters": dict, "strict": bool}
    for key, kind in kinds.items():
        if function.get(key) is not None and not isinstance(function[key], kind):
            shown = {str: "a string", dict: "a JSON schema", bool: "a boolean"}[kind]
            raise invalid(f"{where}.{key} is not {shown}", f"{where}.{key}")
    parameters = function.get("parameters") or {}
    if parameters.get("type", "object") != "object":
        raise invalid(f"{where}.parameters.type is not object", f"{where}.parameters.type")
    check_text(json.dumps(function, ensure_ascii=False), where)


def _must_call(choice: Any, names: Sequence[str]) -> tuple[str, ...]:
    """Return the names of the functions of which one must be called. Raises ApiError."""
    if choice in (None, "none", "auto"):
        return ()
    if choice == "required":
        if not names:
            raise invalid("tool_choice is required, but there are no tools", "tool_choice")
        return tuple(names)
    function = choice.get("function") if isinstance(choice, dict) and choice.get("type") == "function" else None
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(name, str):
        form = '{"type": "function", "function": {"name": …}}'
        raise invalid(f"tool_choice is not none, auto, required or {form}", "tool_choice")
    if name not in names:
        raise invalid(
            f"tool_choice names the unknown function `{name[:64]}`{did_you_mean(name[:64], names)}", "tool_choice"
        )
    return (name,)


def _closed(parameters: dict[str, Any] | None) -> dict[str, Any]:
    """Return the schema of arguments, without arguments that it does not list unless it mentions them."""
    schema = {"type": "object", "properties": {}, **(parameters or {})}
    closed = {} if "$ref" in schema or "patternProperties" in schema else {"additionalProperties": False}
    return {**closed, **schema, "x-guidance": _JSON_OPTIONS}
