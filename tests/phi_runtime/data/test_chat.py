"""Conversations in every form that people have them become the messages that a chat template takes."""

from __future__ import annotations

import json
from typing import Any

import pytest

from phi_runtime.data.chat import columns_of_messages, conversation_of, text_of
from phi_runtime.data.messages import Message
from phi_runtime.data.row import RowError

QUESTION = {"role": "user", "content": "Hi"}
ANSWER = {"role": "assistant", "content": "Ho"}


def messages_of(value: Any, system: Any = None) -> list[Message]:
    return conversation_of({"messages": value, "system": system}, ["messages"]).messages


def tools_of(value: Any) -> list[Any] | None:
    return conversation_of({"messages": [QUESTION, ANSWER], "tools": value}, ["messages"]).tools


CALL = [{"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}]


@pytest.mark.parametrize(
    "value",
    [
        [QUESTION, ANSWER],
        json.dumps([QUESTION, ANSWER]),
        [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Ho"}],
        [{"from": "User", "value": "Hi", "weight": 0}, {"from": "ChatGPT", "value": "Ho"}],
        [{"role": "User", "content": "Hi"}, {"role": " Assistant ", "content": "Ho"}],
        [{"role": "human", "content": "Hi"}, {"role": "gpt", "content": "Ho"}],
        [{"role": "prompter", "value": "Hi"}, {"from": "AI", "content": "Ho"}],
        [{"role": None, "from": "human", "value": "Hi"}, {"role": None, "from": "gpt", "value": "Ho"}],
        [{"role": "user", "parts": [{"text": "Hi"}]}, {"role": "model", "parts": [{"text": "Ho"}]}],
        [{"role": "user", "content": ["H", "i"]}, {"role": "assistant", "content": [{"type": "text", "value": "Ho"}]}],
        [
            {"role": "user", "content": [{"type": "input_text", "text": "Hi"}]},
            {"role": "assistant", "content": [{"type": "output_text", "text": "Ho", "annotations": []}]},
        ],
        [QUESTION, {"role": "assistant", "content": None, "refusal": "Ho"}],
        [QUESTION, {"role": "assistant", "content": [{"type": "refusal", "refusal": "Ho"}]}],
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


def test_developer_is_system_and_results_of_tools_have_one_role() -> None:
    names = ("developer", "System", "ipython", "function", "tool_response", "Function Response")
    roles = [m["role"] for m in messages_of([*({"role": name, "content": "x"} for name in names), QUESTION, ANSWER])]
    assert roles == ["system", "system", *["tool"] * 4, "user", "assistant"]


@pytest.mark.parametrize(
    "content",
    [
        [{"type": "reasoning", "value": "hm"}, {"type": "text", "value": "Ho"}],
        [{"type": "thinking", "thinking": "hm", "signature": "x"}, {"type": "text", "text": "Ho"}],
        [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}, {"type": "text", "text": "Ho"}],
    ],
)
def test_reasoning_in_a_content_part_is_the_reasoning_of_the_message(content: list[Any]) -> None:
    thought = {"role": "assistant", "content": "Ho", "reasoning_content": "hm"}
    assert messages_of([QUESTION, {"role": "assistant", "content": content}]) == [QUESTION, thought]
    assert messages_of([QUESTION, ANSWER | {"thinking": "hm"}]) == [QUESTION, thought]


@pytest.mark.parametrize(("key", "off", "on"), [("weight", 0, 1), ("train", False, True), ("weight", 0.0, None)])
def test_an_answer_that_is_off_is_context(key: str, off: Any, on: Any) -> None:
    turns = [QUESTION, ANSWER | {key: off}, QUESTION, ANSWER | {key: on}, QUESTION, ANSWER | {key: off}]
    found = conversation_of({"messages": turns}, ["messages"])
    assert found.messages == [QUESTION, ANSWER] * 2
    assert found.trained == [False, False, False, True]
    assert found.masked == [False, True, False, False]
    assert len(found.remarks) == 1
    with pytest.raises(RowError, match="has no answer that is trained"):
        messages_of([QUESTION, ANSWER | {key: off}])


@pytest.mark.parametrize(
    ("row", "columns"),
    [
        ({"prompt": [QUESTION, ANSWER, QUESTION], "completion": [ANSWER]}, ["prompt", "completion"]),
        ({"prompt": json.dumps([QUESTION, ANSWER, QUESTION]), "completion": "Ho"}, ["prompt", "completion"]),
        ({"history": [QUESTION, ANSWER], "q": "Hi", "a": "Ho"}, ["history", "q", "a"]),
    ],
)
def test_columns_follow_one_another_and_answers_in_the_last_are_trained(
    row: dict[str, Any], columns: list[str]
) -> None:
    found = conversation_of(row, columns)
    assert found.messages == [QUESTION, ANSWER] * 2
    assert found.trained == [False, False, False, True]
    assert found.masked == [False] * 4
    assert not found.remarks


def test_an_empty_column_before_the_last_adds_nothing() -> None:
    for nothing in (None, "", []):
        row = {"history": nothing, "q": "Hi", "a": "Ho"}
        assert conversation_of(row, ["history", "q", "a"]).messages == [QUESTION, ANSWER]


def node(parent: str | None, role: str, *parts: Any, **more: Any) -> dict[str, Any]:
    content = {"content_type": more.pop("kind", "text"), "parts": list(parts)}
    return {"parent": parent, "message": {"author": {"role": role}, "content": content, "recipient": "all", **more}}


EXPORT = {
    "root": {"parent": None, "message": None},
    "empty": node("root", "system", "", weight=0),
    "about": node("empty", "user", "I am Ana.", kind="user_editable_context"),
    "q": node("about", "user", "Hi"),
    "other": node("q", "assistant", "No."),
    "a": node("q", "assistant", "Ho", metadata={"model_slug": "x"}),
}


def test_an_export_of_chatgpt_is_the_path_to_its_current_node() -> None:
    row = {"title": "x", "mapping": EXPORT, "current_node": "a"}
    assert columns_of_messages(row, ()) == ("mapping",)
    assert conversation_of(row, ["mapping"]).messages == [QUESTION, ANSWER]
    image = EXPORT | {"a": node("q", "assistant", {"asset": 1}, kind="multimodal_text")}
    with pytest.raises(RowError, match="type `multimodal_text` of `assistant`"):
        conversation_of(row | {"mapping": image}, ["mapping"])
    odd = EXPORT | {"a": {"parent": "q", "message": {"author": "x"}}}
    with pytest.raises(RowError, match="without author and content"):
        conversation_of(row | {"mapping": odd}, ["mapping"])
    loop = EXPORT | {"root": {"parent": "a", "message": None}}
    with pytest.raises(RowError, match="loop"):
        conversation_of(row | {"mapping": loop}, ["mapping"])


@pytest.mark.parametrize(
    ("row", "columns"),
    [
        ({"id": 1, "messages": '[{"role": "user"}]'}, ("messages",)),
        ({"messages": []}, ("messages",)),
        ({"chat": [{"from": "human"}], "id": 1}, ("chat",)),
        ({"messages": "[{'role': 'user'}]"}, ("messages",)),
        ({"prompt": [QUESTION], "completion": "x"}, ("prompt", "completion")),
        ({"messages": "A: hi B: ho"}, ()),
        ({"prompt": "x", "completion": "y"}, ()),
        ({"rows": [{"name": "x"}]}, ()),
    ],
)
def test_the_columns_of_a_conversation_are_found_by_what_they_hold(
    row: dict[str, Any], columns: tuple[str, ...]
) -> None:
    assert columns_of_messages(row, [name for name in row if name == "messages"]) == columns


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
        ([QUESTION, ANSWER | {"weight": 0.5}], "has the weight 0.5 in message 2"),
        ([QUESTION, ANSWER | {"train": "no"}], "has 'no' as `train` of message 2"),
        ([QUESTION | {"train": True}, ANSWER], "has `train: true` in message 1 of the user"),
        (str([QUESTION, ANSWER]), "is Python text, not JSON"),
        ([{"role": "user", "content": [{"type": ["text"]}]}, ANSWER], "has the content part"),
        ([{"role": "user", "content": [{"type": "text", "text": 7}]}, ANSWER], "a content part `text` without text"),
        ([QUESTION, ANSWER | {"reasoning": True}], "has reasoning in message 2 that is not text"),
        (
            [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}, ANSWER],
            "has the content part image_url in message 1; only text is trained",
        ),
    ],
)
def test_each_fault_of_a_conversation_says_where_it_is(value: Any, says: str) -> None:
    with pytest.raises(RowError, match=says):
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
    with pytest.raises(RowError, match=says):
        tools_of(value)


@pytest.mark.parametrize(
    ("history", "text", "expected"),
    [
        ([], "", ["Add them."]),
        (
            [["Hi", "Hello!"], ["1 and 2", "Yes?"]],
            "Quickly.",
            ["Hi", "Hello!", "1 and 2", "Yes?", "Add them.\nQuickly."],
        ),
        ('[["Hi", "Hello!"]]', "", ["Hi", "Hello!", "Add them."]),
    ],
)
def test_the_history_of_an_instruction_comes_before_it_and_is_not_trained(
    history: Any, text: str, expected: list[str]
) -> None:
    row = {"system": "Be brief.", "history": history, "instruction": "Add them.", "input": text, "output": "3"}
    found = conversation_of(row, ["history", "instruction", "input", "output"])
    assert [m["content"] for m in found.messages] == ["Be brief.", *expected, "3"]
    roles = ["user", "assistant"] * 3
    assert [m["role"] for m in found.messages] == ["system", *roles[: len(expected) + 1]]
    assert found.trained == [False] * (len(expected) + 1) + [True]


def test_a_conversation_that_repeats_its_prompt_has_it_once() -> None:
    question, answer = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}
    for prompt in ("a", [question]):
        found = conversation_of({"prompt": prompt, "chosen": [question, answer]}, ["prompt", "chosen"])
        assert found.messages == [question, answer]
        found = conversation_of({"prompt": prompt, "chosen": [answer]}, ["prompt", "chosen"])
        assert found.messages == [question, answer]
