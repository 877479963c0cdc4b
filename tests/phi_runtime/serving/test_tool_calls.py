"""Tool calls: the format that a template writes, and the calls in an answer."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from phi_runtime.data.chat_template import ChatTemplate
from phi_runtime.serving.bodies import AnswerChoice
from phi_runtime.serving.errors import ApiError
from phi_runtime.serving.tool_calls import ToolCallParser
from phi_runtime.serving.tool_format import ToolFormat, tool_format
from phi_runtime.serving.tools import read_tools
from phi_runtime.serving.wire import ServedModel
from tests.phi_runtime.serving import templates

TAGS = ("<tool_call>", "</tool_call>", "<|im_start|>", "<|im_end|>")
MARKERS = {
    "MISTRAL": ("<|endoftext|>", "<|im_end|>"),
    "MISTRAL_3": ("[TOOL_CALLS]", "[ARGS]", "</s>"),
    "DEEPSEEK": ("<calls>", "</calls>", "<call>", "</call>", "<sep>", "<eos>", "<user>", "<assistant>"),
    "PHI_4": ("<|tool_call|>", "<|/tool_call|>", "<|end|>"),
}
NAMES = ("add", "get_weather")
# What each model writes for one call and for two.
ONE: dict[str, str] = {
    "QWEN": '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>',
    "HERMES": '<tool_call>\n{ "arguments": {"a": 1}, "name": "add"}\n</tool_call>',
    "OBJECT": '<tool_call>\n{"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}\n</tool_call>',
    "LLAMA": '{"name": "add", "parameters": {"a": 1}}',
    "MISTRAL": '<|endoftext|> [{"name": "add", "arguments": {"a": 1}, "id": "Zz0Zz0Zz0"}]',
    "MISTRAL_3": '[TOOL_CALLS]add[ARGS]{"a": 1}',
    "DEEPSEEK": '<calls><call>function<sep>add\n```json\n{"a": 1}\n```</call></calls>',
    "PHI_4": '<|tool_call|>[{"name": "add", "arguments": {"a": 1}}]<|/tool_call|>',
}
SECOND = '{"name": "get_weather", "arguments": {"where": "Q}\\"{ </tool_call>"}'
TWO: dict[str, str] = {
    "QWEN": f"{ONE['QWEN']}\n<tool_call>\n{SECOND}}}\n</tool_call>",
    "OBJECT": f"{ONE['OBJECT']}\n<tool_call>\n{SECOND}}}\n</tool_call>",
    "MISTRAL": f'{ONE["MISTRAL"][:-1]}, {SECOND}, "id": "a12345678"}}]',
    "MISTRAL_3": ONE["MISTRAL_3"] + '[TOOL_CALLS]get_weather[ARGS]{"where": "Q}\\"{ </tool_call>"}',
    "DEEPSEEK": ONE["DEEPSEEK"].removesuffix("</calls>")
    + '\n<call>function<sep>get_weather\n```json\n{"where": "Q}\\"{ </tool_call>"}\n```</call></calls>',
    "PHI_4": f"{ONE['PHI_4'].removesuffix(']<|/tool_call|>')}, {SECOND}}}]<|/tool_call|>",
}
ADD = ("add", {"a": 1})
WEATHER = ("get_weather", {"where": 'Q}"{ </tool_call>'})


def chat_template(name: str) -> ChatTemplate:
    return ChatTemplate(getattr(templates, name), "messages", {}, tuple(sorted(MARKERS.get(name, TAGS))))


def format_of(name: str) -> ToolFormat:
    found = tool_format(chat_template(name))
    assert found is not None
    return found


def read(call_format: ToolFormat, text: str, size: int, limit: int | None = None) -> tuple[str, list[tuple[str, Any]]]:
    """Text and calls of an answer that comes in pieces of `size` characters."""
    parser, choice = ToolCallParser(call_format, NAMES, limit), AnswerChoice()
    for start in range(0, len(text), size):
        choice.add(parser.push(text[start : start + size]))
    choice.add(parser.finish())
    assert parser.count == len(choice.calls)
    assert all(len(call["id"]) == 9 and call["id"].isalnum() for call in choice.calls)
    return choice.text, [(call["name"], json.loads(call["arguments"])) for call in choice.calls]


def test_a_template_that_writes_no_tools_has_no_format() -> None:
    assert tool_format(chat_template("PLAIN")) is None
    assert tool_format(chat_template("XML")) is None


@pytest.mark.parametrize(
    ("name", "opener", "middle", "separator", "form"),
    [
        ("QWEN", "<tool_call>\n", '", "arguments": ', "\n</tool_call>\n<tool_call>\n", "object"),
        ("HERMES", "<tool_call>\n", ', "name": "', "\n</tool_call>\n<tool_call>\n", "object"),
        ("LLAMA", "", '", "parameters": ', None, "object"),
        ("MISTRAL", "<|endoftext|> [", '", "arguments": ', ", ", "object"),
        ("MISTRAL_3", "[TOOL_CALLS]", "[ARGS]", "[TOOL_CALLS]", "object"),
        ("DEEPSEEK", "<calls><call>function<sep>", "\n```json\n", "\n```</call>\n<call>function<sep>", "text"),
        ("PHI_4", "<|tool_call|>[", '", "arguments": ', ", ", "content"),
    ],
)
def test_the_format_is_what_the_template_writes(
    name: str, opener: str, middle: str, separator: str | None, form: str
) -> None:
    found = format_of(name)
    assert (found.opener, found.middle, found.separator) == (opener, middle, separator)
    assert chat_template(name).form.calls == form


@pytest.mark.parametrize("name", ONE)
@pytest.mark.parametrize("size", [1, 3, 1000])
def test_calls_are_read_however_the_text_comes(name: str, size: int) -> None:
    found = format_of(name)
    assert read(found, ONE[name], size) == ("", [ADD])
    bare = ONE[name]
    for marker in found.markers:  # the detokenizer may skip them
        bare = bare.replace(marker, "")
    assert read(found, bare, size) == ("", [ADD])
    assert read(found, ONE[name].replace("\n", "").replace(": ", ":"), size) == ("", [ADD])
    if name in TWO:
        assert read(found, TWO[name], size) == ("", [ADD, WEATHER])
        assert read(found, TWO[name], size, limit=1) == ("", [ADD])
    if name != "LLAMA":
        assert read(found, f"I look.\n\n{ONE[name]}", size) == ("I look.", [ADD])
        assert read(found, f"{ONE[name]}\nDone.", size) == ("Done.", [ADD])


@pytest.mark.parametrize("name", ONE)
@pytest.mark.parametrize("size", [1, 3, 1000])
@pytest.mark.parametrize(
    "text",
    [
        "",
        "  \n",
        "joy",
        " a {b} [c] <tool",
        '{"name": "Bob", "age": 5}',
        '[{"name": "Bob"}] and more',
        '{"name": "other", "arguments": {}}',
        "{not json} at all",
        "<tool_call> is a tag",
        "<tool_call>\n{}\n</tool_call>",
    ],
)
def test_text_remains_text(name: str, size: int, text: str) -> None:
    assert read(format_of(name), text, size) == (text, [])


FRAGMENTS = (
    *ONE.values(),
    *TWO.values(),
    *("{", "}", "[", "]", '"', "\\", " ", "\n\n", "a", ",", "<tool_call>", "</tool_call>", "[TOOL_CALLS]", "function"),
    *('"name": "add"', '{"name": "add", "arguments": ', '{"a": 1}', '{"function": 5}', "```json"),
)


@pytest.mark.parametrize("name", ONE)
def test_pieces_make_no_difference_and_nothing_is_lost(name: str) -> None:
    """Random texts of fragments that mean something to one format or another."""
    found, chance = format_of(name), random.Random(3)
    for _ in range(150):
        text = "".join(chance.choices(FRAGMENTS, k=chance.randint(1, 7)))
        parts = []
        for size in (len(text), chance.randint(1, 9), 1):
            parser, choice = ToolCallParser(found, NAMES), AnswerChoice()
            for start in range(0, len(text), size):
                choice.add(parser.push(text[start : start + size]))
            choice.add(parser.finish())
            parts.append((choice.text, [(call["name"], call["arguments"]) for call in choice.calls]))
        assert parts[0] == parts[1] == parts[2], text
        if not parts[0][1]:
            assert parts[0][0] == text


def test_arguments_are_passed_on_as_they_come() -> None:
    parser = ToolCallParser(format_of("QWEN"), NAMES)
    text = '<tool_call>\n{"name": "add", "arguments": {"a": [1, 2, 3]}}\n</tool_call>'
    deltas = [delta for character in text for delta in parser.push(character)]
    assert not any(isinstance(delta, str) for delta in deltas)
    assert [delta.name for delta in deltas[:2] if not isinstance(delta, str)] == ["add", None]
    assert len(deltas) == 1 + len('{"a": [1, 2, 3]}')


def test_an_answer_that_is_cut_keeps_what_it_has() -> None:
    parser, choice = ToolCallParser(format_of("QWEN"), NAMES), AnswerChoice()
    choice.add([*parser.push(ONE["QWEN"][:-15]), *parser.finish()])
    assert (choice.text, choice.calls[0]["arguments"]) == ("", '{"a": 1')


def test_calls_go_into_a_prompt_as_text_where_the_template_writes_none() -> None:
    template = chat_template("PHI_4")
    called = {"id": "1", "type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
    messages = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "", "tool_calls": [called]},
        {"role": "tool", "content": "3"},
    ]
    tools = [{"type": "function", "function": {"name": "add"}}]
    assert template.render(messages, tools, add_generation_prompt=True) == (
        '<|system|><|tool|>[{"name": "add"}]<|/tool|><|end|><|user|>Hi<|end|>'
        f"<|assistant|>{ONE['PHI_4']}<|end|><|tool|>3<|end|><|assistant|>"
    )


@pytest.mark.parametrize(
    ("choice", "strict", "param"),
    [
        ("required", False, "tool_choice"),
        ({"type": "function", "function": {"name": "add"}}, False, "tool_choice"),
        ("auto", True, "tools[0].function.strict"),
    ],
)
def test_a_model_that_cannot_be_guided_refuses_calls_that_need_a_guide(choice: Any, strict: bool, param: str) -> None:
    model = ServedModel("base", "base", None, Path("base"), 512, False, True, ["messages"], format_of("QWEN"), 0, "fp")
    tools = [{"type": "function", "function": {"name": "add", "strict": strict}}]
    with pytest.raises(ApiError, match="ONNX models do") as caught:
        read_tools(tools, choice, None, model)
    assert (caught.value.param, caught.value.code) == (param, "unsupported_parameter")
    free = read_tools([{"type": "function", "function": {"name": "add"}}], "auto", False, model)
    assert free is not None
    assert (free.guide(), free.limit) == (None, 1)
    assert read_tools(tools, "none", None, model) is None
