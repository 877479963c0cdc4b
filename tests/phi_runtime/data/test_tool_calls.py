"""Tool calls are trained as a chat template writes them, in the form in which it reads them; a template without them is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from phi_runtime.data.chat import conversation_of
from phi_runtime.data.chat_template import ChatTemplate
from phi_runtime.data.row import RowError
from tests.phi_runtime.data.tool_templates import DEEPSEEK_R1, LLAMA_31, MISTRAL_3, PHI_4_MINI, QWEN_25

PLAIN = "{% for m in messages %}<{{ m.role }}>{{ m.content }}<end>{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
MARKERS = ("<end>", "<|im_end|>", "<|eot_id|>", "</s>", "<|end|>", "<|endoftext|>", "<｜end▁of▁sentence｜>")
NAMES = {"bos_token": "<s>", "eos_token": "</s>"}
FUNCTION = {"name": "get_tide", "parameters": {"type": "object", "properties": {"harbor": {"type": "string"}}}}
TOOL = {"type": "function", "function": FUNCTION}
QUESTION = {"role": "user", "content": "The tide at Brest?"}
ANSWER = {"role": "assistant", "content": "It is 5.1 m."}
RESULT = {"role": "tool", "tool_call_id": "abcdefghi", "content": '{"m": 5.1}'}


def template(source: str) -> ChatTemplate:
    return ChatTemplate(source, "messages", NAMES, MARKERS)


def call(arguments: Any, **more: Any) -> dict[str, Any]:
    return {"id": "abcdefghi", "type": "function", "function": {"name": "get_tide", "arguments": arguments}, **more}


def row(*calls: Any) -> dict[str, Any]:
    """A row in OpenAI's form."""
    called = {"role": "assistant", "content": None, "tool_calls": list(calls)}
    return {"messages": [QUESTION, called, RESULT, ANSWER], "tools": [TOOL]}


OPENAI = row(call('{"harbor": "Brest"}'))


def trained(source: str, values: dict[str, Any]) -> list[str]:
    return [text for text, learned in template(source).row(values, completion_only=True).pieces if learned]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (
            QWEN_25,
            [
                '\n<tool_call>\n{"name": "get_tide", "arguments": {"harbor": "Brest"}}\n</tool_call><|im_end|>',
                "It is 5.1 m.<|im_end|>",
            ],
        ),
        (LLAMA_31, ['{"name": "get_tide", "parameters": {"harbor": "Brest"}}<|eot_id|>', "It is 5.1 m.<|eot_id|>"]),
        (
            MISTRAL_3,
            [
                '[TOOL_CALLS] [{"name": "get_tide", "arguments": {"harbor": "Brest"}, "id": "abcdefghi"}]</s>',
                " It is 5.1 m.</s>",
            ],
        ),
        (
            DEEPSEEK_R1,
            [
                "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>get_tide\n```json\n"
                '{"harbor": "Brest"}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜><｜end▁of▁sentence｜>',
                "It is 5.1 m.<｜end▁of▁sentence｜>",
            ],
        ),
    ],
)
def test_a_call_is_trained_once_encoded_whether_its_arguments_are_text_or_an_object(
    source: str, expected: list[str]
) -> None:
    # The prompt of Qwen ends with a line break, which its calls start with.
    expected = [text.removeprefix("\n") for text in expected] if source == QWEN_25 else expected
    assert trained(source, OPENAI) == expected
    assert trained(source, row(call({"harbor": "Brest"}))) == expected


def test_the_whole_text_of_a_tool_conversation() -> None:
    pieces = template(QWEN_25).row(OPENAI, completion_only=True).pieces
    tool = '{"type": "function", "function": {"name": "get_tide", "parameters": {"type": "object", "properties": '
    tool += '{"harbor": {"type": "string"}}}}}'
    assert "".join(text for text, _ in pieces) == (
        "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.\n\n# Tools\n\nYou may call one or "
        "more functions to assist with the user query.\n\nYou are provided with function signatures within <tools></tools> XML "
        f"tags:\n<tools>\n{tool}\n</tools>\n\nFor each function call, return a json object with function name and arguments "
        'within <tool_call></tool_call> XML tags:\n<tool_call>\n{"name": <function-name>, "arguments": <args-json-object>}\n'
        "</tool_call><|im_end|>\n<|im_start|>user\nThe tide at Brest?<|im_end|>\n<|im_start|>assistant\n<tool_call>\n"
        '{"name": "get_tide", "arguments": {"harbor": "Brest"}}\n</tool_call><|im_end|>\n<|im_start|>user\n<tool_response>\n'
        '{"m": 5.1}\n</tool_response><|im_end|>\n<|im_start|>assistant\nIt is 5.1 m.<|im_end|>\n'
    )


@pytest.mark.parametrize("source", [PLAIN, PHI_4_MINI])
def test_calls_that_the_template_does_not_write_are_refused(source: str) -> None:
    with pytest.raises(RowError, match="tool calls") as caught:
        template(source).row(OPENAI, completion_only=True)
    assert "chat_template" in caught.value.fix


def test_a_name_in_the_question_does_not_make_up_for_a_call_that_is_not_written() -> None:
    named = {"role": "user", "content": "Call get_tide with harbor Brest"}
    with pytest.raises(RowError, match="tool calls"):
        template(PLAIN).row({"messages": [named, *OPENAI["messages"][1:]]}, completion_only=True)


def test_tools_and_results_that_the_template_does_not_write_are_counted() -> None:
    without_calls = {"messages": [QUESTION, RESULT, ANSWER], "tools": [TOOL]}
    only_users = "{% for m in messages if m.role != 'tool' %}<{{ m.role }}>{{ m.content }}<end>{% endfor %}<assistant>"
    assert list(template(PLAIN).row(without_calls, completion_only=True).remarks) == [
        "have `tools` that the chat template does not write"
    ]
    assert len(template(only_users).row(without_calls, completion_only=False).remarks) == 2
    assert not template(QWEN_25).row(without_calls, completion_only=True).remarks


def test_tools_of_phi_4_mini_are_in_its_system_message() -> None:
    written = f"<|system|><|tool|>{json.dumps([FUNCTION])}<|/tool|><|end|><|user|>The tide at Brest?<|end|>"
    row = template(PHI_4_MINI).row({"messages": [QUESTION, ANSWER], "tools": [TOOL]}, completion_only=True)
    assert row.pieces == [(f"{written}<|assistant|>", False), ("It is 5.1 m.<|end|></s>", True)]
    assert not row.remarks
    own = {"role": "system", "content": "Be brief.", "tools": "[]"}
    text = template(PHI_4_MINI).row({"messages": [own, QUESTION, ANSWER]}, completion_only=False).pieces[0][0]
    assert text.startswith("<|system|>Be brief.<|tool|>[]<|/tool|><|end|>")


def test_calls_of_phi_4_mini_are_text_between_the_tokens_of_its_vocabulary() -> None:
    made = ChatTemplate(PHI_4_MINI, "messages", NAMES, (*MARKERS, "<|tool_call|>", "<|/tool_call|>"))
    said = [text for text, learned in made.row(OPENAI, completion_only=True).pieces if learned]
    call = '<|tool_call|>[{"name": "get_tide", "arguments": {"harbor": "Brest"}}]<|/tool_call|>'
    assert said == [f"{call}<|end|>", "It is 5.1 m.<|end|></s>"]
    assert made.reference({"messages": OPENAI["messages"][:2]}) == call


CALL = {"id": "call00200", "type": "function", "function": {"name": "get_tide", "arguments": {"harbor": "Brest"}}}


@pytest.mark.parametrize(
    "messages",
    [
        [  # LLaMA-Factory
            {"from": "human", "value": "The tide at Brest?"},
            {"from": "function_call", "value": '{"name": "get_tide", "arguments": {"harbor": "Brest"}}'},
            {"from": "observation", "value": '{"m": 5.1}'},
            {"from": "gpt", "value": "It is 5.1 m."},
        ],
        [  # OpenAI before tools
            QUESTION,
            {
                "role": "assistant",
                "content": None,
                "function_call": {"name": "get_tide", "arguments": '{"harbor":"Brest"}'},
            },
            {"role": "function", "name": "get_tide", "content": '{"m": 5.1}'},
            ANSWER,
        ],
        [
            QUESTION,
            {"role": "function_call", "content": '[{"name": "get_tide", "arguments": "{\\"harbor\\": \\"Brest\\"}"}]'},
            {"role": "observation", "content": {"m": 5.1}},
            ANSWER,
        ],
    ],
)
def test_calls_of_other_formats_become_tool_calls_with_ids_that_their_results_name(messages: list[Any]) -> None:
    found = conversation_of({"messages": messages, "tools": json.dumps([FUNCTION])}, ["messages"])
    assert found.messages == [
        QUESTION,
        {"role": "assistant", "content": "", "tool_calls": [CALL]},
        {"role": "tool", "content": '{"m": 5.1}', "name": "get_tide", "tool_call_id": "call00200"},
        ANSWER,
    ]
    assert found.trained == [False, True, False, True]
    assert found.tools == [TOOL]
    first, _ = trained(MISTRAL_3, {"messages": messages})
    assert first == '[TOOL_CALLS] [{"name": "get_tide", "arguments": {"harbor": "Brest"}, "id": "call00200"}]</s>'


def test_several_calls_of_one_turn_are_all_trained() -> None:
    both = [call('{"harbor": "Brest"}'), call("", id="123456789")]
    said = '<tool_call>\n{"name": "get_tide", "arguments": {"harbor": "Brest"}}\n</tool_call>\n'
    said += '<tool_call>\n{"name": "get_tide", "arguments": {}}\n</tool_call><|im_end|>'
    assert trained(QWEN_25, row(*both))[0] == said
    with pytest.raises(RowError, match="single tool-calls"):
        trained(LLAMA_31, row(*both))


def test_ids_of_calls_are_kept_as_they_are() -> None:
    turns = [QUESTION, {"role": "assistant", "tool_calls": [call({}, id=7)]}, {"role": "tool", "content": "3"}, ANSWER]
    found = conversation_of({"messages": turns}, ["messages"]).messages
    assert found[1]["tool_calls"][0]["id"] == 7
    assert found[2] == {"role": "tool", "content": "3"}


def test_the_expected_answer_of_a_call_is_its_text() -> None:
    values = {"messages": OPENAI["messages"][:2], "tools": [TOOL]}
    text = '<tool_call>\n{"name": "get_tide", "arguments": {"harbor": "Brest"}}\n</tool_call>'
    assert template(QWEN_25).reference(values) == text
    assert template(QWEN_25).row(values, completion_only=True).answer == text


@pytest.mark.parametrize(
    ("message", "says"),
    [
        (
            {"role": "assistant", "tool_calls": [call("{harbor}")]},
            "arguments of `get_tide` in message 2 that are not JSON",
        ),
        (
            {"role": "assistant", "tool_calls": [call("[1]")]},
            "arguments of `get_tide` in message 2 that are not an object",
        ),
        ({"role": "assistant", "tool_calls": [{"id": "1"}]}, "a call in message 2 without the name of a function"),
        ({"role": "user", "tool_calls": [call({})]}, "tool calls in message 2 of the user"),
        ({"from": "function_call", "value": "get_tide()"}, "a call in message 2 that is not JSON"),
        ({"from": "function_call", "value": "{'name': 'get_tide'}"}, "is Python text, not JSON"),
    ],
)
def test_a_call_that_cannot_be_read_is_refused(message: dict[str, Any], says: str) -> None:
    with pytest.raises(RowError, match=says):
        conversation_of({"messages": [QUESTION, message, ANSWER]}, ["messages"])
