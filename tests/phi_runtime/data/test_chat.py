"""Conversations in every form that people have them become the messages that a chat template takes."""

from __future__ import annotations

import json
from typing import Any

import pytest

from phi_runtime.data.chat import ChatError, messages_of, text_of, tools_of

QUESTION = {"role": "user", "content": "Hi"}
ANSWER = {"role": "assistant", "content": "Ho"}
CALL = [{"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}]


@pytest.mark.parametrize(
    "value",
    [
        [QUESTION, ANSWER],
        json.dumps([QUESTION, ANSWER]),
        [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Ho"}],
        [{"from": "User", "value": "Hi", "weight": 0}, {"from": "ChatGPT", "value": "Ho"}],
        [QUESTION | {"id": 7, "name": None, "tool_calls": []}, ANSWER | {"reasoning_content": ""}],
        [{"role": "user", "content": [{"type": "text", "text": "H"}, {"type": "text", "text": "i"}]}, ANSWER],
    ],
)
def test_every_form_of_the_same_conversation_reads_alike(value: Any) -> None:
    assert messages_of(value) == [QUESTION, ANSWER]


def test_the_speakers_of_sharegpt_have_their_roles() -> None:
    said = [
        "system",
        "human",
        "function_response",
        "observation",
        "tool",
        "user",
        "bing",
        "bard",
        "bot",
        "model",
        "gpt",
    ]
    roles = [m["role"] for m in messages_of([{"from": who, "value": "x"} for who in said])]
    assert roles == ["system", "user", "tool", "tool", "tool", "user", *["assistant"] * 5]


def test_what_follows_the_last_answer_is_left_out() -> None:
    more = [QUESTION, ANSWER, QUESTION | {"content": "Bye"}, {"role": "tool", "content": "7"}]
    assert messages_of(more) == [QUESTION, ANSWER]
    assert messages_of([*more, ANSWER]) == [*more, ANSWER]


def test_the_column_system_is_the_first_message_where_there_is_none() -> None:
    system = {"role": "system", "content": "Be brief."}
    assert messages_of([QUESTION, ANSWER], "Be brief.") == [system, QUESTION, ANSWER]
    assert messages_of([system, QUESTION, ANSWER], "Be long.") == [system, QUESTION, ANSWER]
    for nothing in (None, "", "  ", 7):
        assert messages_of([QUESTION, ANSWER], nothing) == [QUESTION, ANSWER]


def test_calls_of_tools_names_and_reasoning_are_carried() -> None:
    called = {"role": "assistant", "content": None, "tool_calls": CALL}
    result = {"role": "tool", "content": "3", "tool_call_id": "1", "name": "add"}
    thought = ANSWER | {"reasoning_content": "hm"}
    found = messages_of([QUESTION, called, result, thought])
    assert found == [QUESTION, called | {"content": ""}, result, thought]
    assert [text_of(m) for m in found] == ["Hi", "", "3", "Ho"]


def test_a_conversation_that_is_read_is_not_changed() -> None:
    value = [QUESTION, {"role": "assistant", "content": None, "tool_calls": CALL}, ANSWER, QUESTION]
    before = json.dumps(value)
    messages_of(value, "Be brief.")
    assert json.dumps(value) == before


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("Hi", "is text; expected a list of messages"),
        ("[" * 100_000, "is text; expected a list of messages"),
        ([], "is empty; expected a list of messages"),
        (None, "is NoneType; expected a list"),
        ({"role": "user"}, "is dict; expected a list"),
        ('{"role": "user"}', "is dict; expected a list"),
        ([QUESTION], "has no message of the assistant, so there is no answer to train on"),
        ([QUESTION, "Ho"], "has a message 2 that is not an object"),
        ([QUESTION, {"content": "Ho"}], "has neither `role` and `content` nor `from` and `value` in message 2"),
        ([{"role": "usr", "content": "Hi"}, ANSWER], r"role 'usr' in message 1.*did you mean `user`\?"),
        ([{"role": ["user"], "content": "Hi"}, ANSWER], r"the role \['user'\] in message 1"),
        ([{"from": "humen", "value": "Hi"}, ANSWER], r"speaker 'humen' in message 1.*did you mean `human`\?"),
        ([{"from": None, "value": "Hi"}, ANSWER], "the speaker None in message 1, which is unknown"),
        ([{"role": "user"}, ANSWER], "has no content in message 1"),
        ([{"role": "user", "content": None}, ANSWER], "has no content in message 1"),
        ([{"role": "user", "content": 7}, ANSWER], "has 7 as content of message 1; expected text"),
        ([QUESTION, {"role": "assistant", "content": " \n"}], "has an empty answer in message 2"),
        ([QUESTION, {"from": "gpt", "value": ""}], "has an empty answer in message 2"),
        (
            [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}, ANSWER],
            "has content other than text in message 1",
        ),
    ],
)
def test_each_fault_of_a_conversation_says_where_it_is(value: Any, says: str) -> None:
    with pytest.raises(ChatError, match=says):
        messages_of(value)


def test_tools_are_a_list_of_schemas_or_their_json() -> None:
    assert tools_of(CALL) == tools_of(json.dumps(CALL)) == CALL
    for nothing in (None, "", [], "[]", "null"):
        assert not tools_of(nothing)


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("add()", "has `tools` that are not JSON"),
        ("[" * 100_000, "has `tools` that are not JSON"),
        ({"name": "add"}, "not a list of function schemas"),
        (["add"], "not a list of function schemas"),
        (7, "not a list of function schemas"),
    ],
)
def test_tools_that_are_no_schemas_are_refused(value: Any, says: str) -> None:
    with pytest.raises(ChatError, match=says):
        tools_of(value)
