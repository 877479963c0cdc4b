"""Tool calls of a server, through the openai package."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest
from openai.types.chat import ChatCompletion

from phi_runtime.core.project import ProjectFolder
from phi_runtime.inference.generator import Guide, SamplingParams
from phi_runtime.pipeline.session import open_session
from tests.phi_runtime.serving.conftest import Server

HELLO = [{"role": "user", "content": "hello"}]
CITIES = {"type": "string", "enum": ["Paris", "Rome"]}
WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather.",
        "parameters": {
            "type": "object",
            "properties": {"city": CITIES, "days": {"type": "integer", "minimum": 1, "maximum": 9}},
            "required": ["city", "days"],
        },
    },
}
NOW: dict[str, Any] = {"type": "function", "function": {"name": "now"}}
NAMED = {"type": "function", "function": {"name": "get_weather"}}


def ask(server: Server, model: str = "caller", **changed: Any) -> ChatCompletion:
    body = {"messages": HELLO, "max_tokens": 120, "tools": [WEATHER, NOW], **changed}
    answer: ChatCompletion = server.client.chat.completions.create(model=model, **body)
    return answer


def check(name: str, arguments: str) -> None:
    """Check that arguments follow the schema of their function."""
    value = json.loads(arguments)
    if name == "now":
        assert value == {}
    else:
        assert (name, set(value)) == ("get_weather", {"city", "days"})
        assert value["city"] in ("Paris", "Rome")
        assert 1 <= value["days"] <= 9


@pytest.mark.parametrize("model", ["caller", "special"])
@pytest.mark.parametrize("choice", ["required", NAMED])
@pytest.mark.parametrize("temperature", [0, 1])
def test_a_call_that_is_required_is_valid(server: Server, model: str, choice: Any, temperature: float) -> None:
    choice_of_answer = ask(server, model, tool_choice=choice, temperature=temperature, seed=3).choices[0]
    assert choice_of_answer.finish_reason == "tool_calls"
    assert choice_of_answer.message.content is None
    (call,) = choice_of_answer.message.tool_calls or []
    assert call.type == "function"
    assert (len(call.id), call.id.isalnum()) == (9, True)
    check(call.function.name, call.function.arguments)
    if choice == NAMED:
        assert call.function.name == "get_weather"


@pytest.mark.parametrize("model", ["caller", "special"])
def test_a_call_is_streamed_by_name_and_parts_of_its_arguments(server: Server, model: str) -> None:
    whole = ask(server, model, tool_choice=NAMED).choices[0].message.tool_calls or []
    chunks = [chunk.choices[0] for chunk in ask(server, model, tool_choice=NAMED, stream=True)]  # type: ignore[attr-defined]
    assert chunks[0].delta.role == "assistant"
    parts = [part for chunk in chunks for part in chunk.delta.tool_calls or []]
    assert {part.index for part in parts} == {0}
    first, *others = parts
    assert (first.type, first.function.name, len(first.id)) == ("function", "get_weather", 9)
    assert others
    assert not any(part.id or part.function.name for part in others)
    assert "".join(part.function.arguments for part in parts) == whole[0].function.arguments
    assert not any(chunk.delta.content for chunk in chunks)
    assert [chunk.finish_reason for chunk in chunks if chunk.finish_reason] == ["tool_calls"]


def test_an_answer_with_a_call_can_be_sent_back(server: Server) -> None:
    message = ask(server, "special", tool_choice=NAMED).choices[0].message
    (call,) = message.tool_calls or []
    result = {"role": "tool", "tool_call_id": call.id, "content": "sunny"}
    answer = ask(server, "special", messages=[*HELLO, message, result], max_tokens=4)
    assert answer.choices[0].finish_reason in ("stop", "length")


def test_several_choices_have_calls_of_their_own(server: Server) -> None:
    choices = ask(server, tool_choice="required", temperature=1.5, seed=1, n=3).choices
    calls = [call for choice in choices for call in choice.message.tool_calls or []]
    assert len({call.id for call in calls}) == 3
    for call in calls:
        check(call.function.name, call.function.arguments)


def test_the_prompt_has_the_tools_and_the_calls_of_earlier_turns(server: Server, project: ProjectFolder) -> None:
    session = open_session(project, str(project.root / "caller"))
    called = {"id": "1", "type": "function", "function": {"name": "now", "arguments": '{"at": ["\u00fc"]}'}}
    messages = [
        *HELLO,
        {"role": "assistant", "content": None, "tool_calls": [called]},
        {"role": "tool", "tool_call_id": "1", "content": [{"type": "text", "text": "noon"}]},
    ]
    rendered = [
        *HELLO,
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{**called, "function": {"name": "now", "arguments": {"at": ["ü"]}}}],
        },
        {"role": "tool", "tool_call_id": "1", "name": "now", "content": "noon"},
    ]
    prompt = session.template.render(rendered, [NOW], add_generation_prompt=True)  # type: ignore[union-attr]
    assert '<tool_call>\n{"name": "now", "arguments": {"at": ["ü"]}}\n</tool_call>' in prompt
    alone = "".join(piece.text for piece in session.generator.answer(prompt, SamplingParams(8)))
    answer = ask(server, messages=messages, tools=[NOW], max_tokens=8)
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == session.generator.count(prompt)
    assert answer.choices[0].message.content == alone
    without, plain = (
        ask(server, max_tokens=8, **no_tools).usage for no_tools in ({"tool_choice": "none"}, {"tools": []})
    )
    assert without is not None
    assert plain is not None
    assert without.prompt_tokens == plain.prompt_tokens


def test_an_answer_may_be_text_or_calls(server: Server) -> None:
    """The tiny model never calls; a guide makes it write what a model that knows tools writes."""
    text = ask(server, max_tokens=8).choices[0]
    assert (text.message.content, text.message.tool_calls) == (
        ask(server, max_tokens=8).choices[0].message.content,
        None,
    )
    strict = {**NOW, "function": {**NOW["function"], "strict": True}}
    guided = ask(server, tools=[strict, WEATHER], max_tokens=8, temperature=1, seed=2).choices[0]
    assert guided.finish_reason in ("stop", "length")


def test_strict_arguments_follow_the_schema_also_where_text_is_allowed(project: ProjectFolder) -> None:
    """The grammar of a strict function in an answer that may be text."""
    from phi_runtime.serving.tools import read_tools
    from phi_runtime.serving.worker import _served_models

    for name in ("caller", "special"):
        session = open_session(project, str(project.root / name))
        (model,) = _served_models(session)
        strict = {**WEATHER, "function": {**WEATHER["function"], "strict": True}}
        tools = read_tools([strict], None, None, model)
        assert tools is not None
        guide = tools.guide()
        assert guide is not None
        # The model itself would not call: take the alternative with calls, and two of them.
        start, *rules = guide.text.splitlines()
        calls = start.rpartition("text? ")[2].replace("(", "").replace(")*", "")
        forced = Guide("lark", "\n".join([f"start: {calls}", *rules]), guide.tokens)
        parser = tools.parser()
        answer = session.generator.answer("hello", SamplingParams(200, guide=forced, temperature=1, seed=1))
        deltas = [delta for piece in answer for delta in parser.push(piece.text)]
        assert parser.count == 2
        assert not any(isinstance(delta, str) for delta in deltas)


@pytest.mark.parametrize(
    ("changed", "param", "code"),
    [
        ({"model": "talker"}, "tools", "unsupported_parameter"),
        ({"model": "onnx"}, "tools", "unsupported_parameter"),
        ({"tools": [{"type": "retrieval"}]}, "tools[0].type", None),
        ({"tools": [{"type": "function"}]}, "tools[0].function", None),
        ({"tools": [NOW, {"type": "function", "function": {"name": "a b"}}]}, "tools[1].function.name", None),
        ({"tools": [NOW, NOW]}, "tools", None),
        (
            {"tools": [{"function": {"name": "f", "parameter": {}}}]},
            "tools[0].function.parameter",
            "unknown_parameter",
        ),
        ({"tools": [{"function": {"name": "f", "parameters": []}}]}, "tools[0].function.parameters", None),
        (
            {"tools": [{"function": {"name": "f", "parameters": {"type": "string"}}}]},
            "tools[0].function.parameters.type",
            None,
        ),
        ({"tools": 7}, "tools", None),
        ({"tools": [7]}, "tools", None),
        ({"tool_choice": "any"}, "tool_choice", None),
        ({"tool_choice": {"type": "function", "function": {"name": "noww"}}}, "tool_choice", None),
        ({"tool_choice": "required", "tools": []}, "tool_choice", None),
        ({"response_format": {"type": "json_object"}}, "response_format", None),
        (
            {
                "tool_choice": "required",
                "tools": [{"function": {"name": "f", "parameters": {"properties": {"a": {"type": "nonsense"}}}}}],
            },
            "tools",
            "invalid_schema",
        ),
        ({"messages": [{"role": "tool", "content": "x", "tool_call_id": "1"}]}, "messages[0].tool_call_id", None),
        (
            {
                "messages": [
                    {"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": "{"}}]},
                    *HELLO,
                ]
            },
            "messages[0].tool_calls[0].function.arguments",
            None,
        ),
    ],
)
def test_what_is_wrong_with_tools_is_named(
    server: Server, changed: dict[str, Any], param: str, code: str | None
) -> None:
    answer = server.post(json={"model": "caller", "messages": HELLO, "max_tokens": 4, "tools": [NOW], **changed})
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert (error["param"], error["code"], error["type"]) == (param, code, "invalid_request_error"), error


def test_models_that_cannot_be_guided_or_write_no_tools_say_so(server: Server) -> None:
    listed = {model["id"]: model["tools"] for model in server.get("/v1/models").json()["data"]}
    assert [name for name, tools in listed.items() if tools] == ["caller", "special"]
    with pytest.raises(openai.BadRequestError, match="template") as caught:
        ask(server, "talker")
    assert caught.value.param == "tools"
    assert ask(server, "talker", tool_choice="none", max_tokens=2).id
