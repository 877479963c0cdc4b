"""A chat template writes a conversation as the model's own tokenizer would, and what the assistant says in it is known."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from phi_runtime.core.errors import DataError
from phi_runtime.data.chat_template import ChatTemplate, default_template, load_template
from phi_runtime.data.row import RowError
from phi_runtime.data.template import PromptTemplate

MARKERS = (
    "<s>", "<|endoftext|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>", "<|im_start|>", "<|im_end|>", "<think>",
    "</think>", "<tool_call>", "</tool_call>",
)  # fmt: skip

CHATML = (
    "{% if tools %}<|im_start|>system\n{% for tool in tools %}{{ tool | tojson }}\n{% endfor %}<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}"
    "{% for call in m.tool_calls or [] %}<tool_call>{{ call.function | tojson }}</tool_call>{% endfor %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# As Phi-3 has it: all of it ends in the end of text, unless it is a prompt.
PHI3 = (
    "{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
)
# As Qwen3 has it: reasoning is written in the last turn alone, and there even where there is none.
QWEN3 = (
    "{% for m in messages %}{% if m.role == 'assistant' %}{% set parts = m.content.split('</think>') %}"
    "{% set thought = (m.reasoning_content or '') if parts | length == 1 else parts[0].split('<think>')[-1] %}"
    "{{ '<|im_start|>assistant\n' }}{% if loop.last %}{{ '<think>\n' + thought.strip('\n') + '\n</think>\n\n' }}{% endif %}"
    "{{ parts[-1].lstrip('\n') + '<|im_end|>\n' }}"
    "{% else %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
PLAIN = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
# As Gemma has it, which knows no system message.
ALTERNATING = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Roles must alternate') }}"
    "{% endif %}<|{{ m.role }}|>{{ m.content | trim }}<|end|>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def template(source: str) -> ChatTemplate:
    return ChatTemplate(source, "messages", {"bos_token": "<s>", "eos_token": "<|endoftext|>"}, MARKERS)


def chat(*said: str, **columns: Any) -> dict[str, Any]:
    """A row in which user and assistant take turns."""
    roles = ("user", "assistant")
    return {"messages": [{"role": roles[i % 2], "content": text} for i, text in enumerate(said)], **columns}


TURNS = chat("Hi", "Ho", "How?", " So.\nAnd so. ")


def trained(source: str, row: dict[str, Any]) -> list[str]:
    """The texts that are trained; all others are as in the full text of the template."""
    made = template(source)
    pieces = made.row(row, completion_only=True).pieces
    assert "".join(text for text, _ in pieces) == "".join(
        text for text, _ in made.row(row, completion_only=False).pieces
    )
    before = [i for i, (_, learned) in enumerate(pieces) if learned][-1]
    prompt = made.render_prompt(row)
    assert prompt == "".join(text for text, _ in pieces[:before]), "the last answer must follow the prompt"
    return [text for text, learned in pieces if learned]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (CHATML, ["Ho<|im_end|>", " So.\nAnd so. <|im_end|>"]),
        (PHI3, ["Ho<|end|>", " So.\nAnd so. <|end|>\n<|endoftext|>"]),
        (QWEN3, ["<think>\n\n</think>\n\n So.\nAnd so. <|im_end|>"]),
        (PLAIN, ["Ho", " So.\nAnd so."]),
        (ALTERNATING, ["Ho<|end|>", "So.\nAnd so.<|end|>"]),
    ],
)
def test_each_answer_is_trained_with_the_marker_that_ends_it(source: str, expected: list[str]) -> None:
    assert trained(source, TURNS) == expected


@pytest.mark.parametrize("source", [CHATML, PHI3, QWEN3, PLAIN, ALTERNATING])
def test_a_single_answer_is_what_stands_behind_what_is_asked(source: str) -> None:
    (only,) = trained(source, chat("Hi", "Ho"))
    assert "Ho" in only
    assert "Hi" not in only


@pytest.mark.parametrize("thought", ["<think>\nhm\n</think>\n\n", "<think>hm</think>"])
def test_an_earlier_turn_whose_reasoning_is_left_out_is_not_trained_and_the_last_is(thought: str) -> None:
    row = chat("1?", f"{thought}one", "2?", f"{thought}two")
    assert trained(QWEN3, row) == ["<think>\nhm\n</think>\n\ntwo<|im_end|>"]
    like_the_marker = chat("1?", f"{thought}<b>one", "2?", "two")
    assert trained(QWEN3, like_the_marker) == ["<think>\n\n</think>\n\ntwo<|im_end|>"]


def test_reasoning_in_a_field_of_its_own_is_trained_where_the_template_writes_it() -> None:
    row = chat("1?", "one")
    row["messages"][1]["reasoning_content"] = "hm"
    assert trained(QWEN3, row) == ["<think>\nhm\n</think>\n\none<|im_end|>"]


def test_calls_of_tools_are_trained_and_what_the_tools_say_is_not() -> None:
    call = {"type": "function", "function": {"name": "add", "arguments": {"a": "ü"}}}
    tool = {"type": "function", "function": {"name": "add", "description": "Adds."}}
    messages = [
        {"role": "user", "content": "1+2?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "3"},
        {"role": "assistant", "content": "Three."},
    ]
    said = ['<tool_call>{"name": "add", "arguments": {"a": "ü"}}</tool_call><|im_end|>', "Three.<|im_end|>"]
    assert trained(CHATML, {"messages": messages, "tools": [tool]}) == said
    assert trained(CHATML, {"messages": json.dumps(messages), "tools": json.dumps([tool])}) == said
    assert '"description": "Adds."' in template(CHATML).render_prompt({"messages": messages, "tools": [tool]})
    assert template(CHATML).reference({"messages": messages[:2]}) == said[0].removesuffix("<|im_end|>")


FOUR = [
    {"role": "user", "content": "1?"},
    {"role": "assistant", "content": "wrong", "weight": 0},
    {"role": "user", "content": "No."},
    {"role": "assistant", "content": "one", "weight": 1},
]


def test_an_answer_of_weight_0_is_context_whatever_else_is_trained() -> None:
    assert trained(CHATML, {"messages": FOUR}) == ["one<|im_end|>"]
    pieces = template(CHATML).row({"messages": FOUR}, completion_only=False).pieces
    before, after = "<|im_start|>user\n1?<|im_end|>\n<|im_start|>assistant\n", "\n<|im_start|>user\nNo.<|im_end|>\n"
    assert pieces == [
        (before, True),
        ("wrong<|im_end|>", False),
        (f"{after}<|im_start|>assistant\none<|im_end|>\n", True),
    ]
    with pytest.raises(RowError, match="does not show where the answers"):  # the wrong one is not where its prompt ends
        template(QWEN3).row({"messages": FOUR}, completion_only=False)


def test_only_answers_in_the_last_of_several_columns_are_trained() -> None:
    made = ChatTemplate(CHATML, ("prompt", "completion"), {}, MARKERS)
    turns = TURNS["messages"]
    row = {"prompt": turns[:3], "completion": turns[3:]}
    whole = template(CHATML).row(TURNS, completion_only=True).pieces
    pieces = made.row(row, completion_only=True).pieces
    assert [text for text, learned in pieces if learned] == [" So.\nAnd so. <|im_end|>"]
    assert "".join(text for text, _ in pieces) == "".join(text for text, _ in whole)
    assert len(made.row(row, completion_only=False).pieces) == 1
    assert made.render_prompt(row) == template(CHATML).render_prompt(TURNS)
    assert made.row_of(turns) == row
    assert made.inputs == made.columns == ("prompt", "completion")


@pytest.mark.parametrize(
    ("source", "row", "remarks"),
    [
        (CHATML, TURNS, []),
        (CHATML, chat("Hi", "Ho", "Bye"), ["end with a message that has no trained answer, and which is dropped"]),
        (QWEN3, TURNS, ["have answers that are not trained: the chat template writes them as context only"]),
        (
            CHATML,
            {"messages": [{"role": "assistant", "content": "Hello!"}, *TURNS["messages"]]},
            ["have answers that are not trained: the chat template writes them as context only"],
        ),
        (
            CHATML,
            {"messages": [TURNS["messages"][0], TURNS["messages"][1] | {"reasoning_content": "hm"}]},
            ["have reasoning that the chat template does not write"],
        ),
        (QWEN3, {"messages": [TURNS["messages"][0], TURNS["messages"][1] | {"reasoning_content": "hm"}]}, []),
        (
            CHATML,
            {"messages": [TURNS["messages"][0] | {"name": "Ana"}, TURNS["messages"][1]]},
            ["have names of speakers that the chat template does not write"],
        ),
        (
            "{% for m in messages if m.role != 'system' %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
            "{% if add_generation_prompt %}assistant: {% endif %}",
            chat("Hi", "Ho", system="Be brief."),
            ["have a message of the system that the chat template does not write"],
        ),
    ],
)
def test_content_that_is_not_trained_is_said(source: str, row: dict[str, Any], remarks: list[str]) -> None:
    assert list(template(source).row(row, completion_only=True).remarks) == remarks


def test_the_whole_is_trained_on_request() -> None:
    assert template(PLAIN).row(chat("Hi", "Ho"), completion_only=False).pieces == [("user: Hi\nassistant: Ho\n", True)]


def test_question_and_reference_are_those_of_the_last_answer() -> None:
    made = template(CHATML)

    def question_of(row: dict[str, Any]) -> str:
        return made.row(row, completion_only=True).question

    assert made.reference(TURNS) == "So.\nAnd so."
    assert question_of(TURNS) == json.dumps(TURNS["messages"][:-1])
    assert question_of(TURNS) != question_of(TURNS | {"system": "Be brief."})
    assert question_of(chat("Hi", "Ho", "Bye")) == question_of(chat("Hi", "Ha"))
    prompt = made.render([{"role": "user", "content": "Hi"}], add_generation_prompt=True)
    assert prompt == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    assert made.render_prompt(chat("Hi", "Ho", system="Be brief.")).startswith("<|im_start|>system\nBe brief.")


@pytest.mark.parametrize(
    ("source", "row", "says"),
    [
        (ALTERNATING, chat("Hi", "Ho", system="Be brief."), "rejects this conversation: System role not supported"),
        (ALTERNATING, {"messages": [*TURNS["messages"], *TURNS["messages"][::-1]]}, "Roles must alternate"),
        ("{{ messages[0].content + 1 }}", chat("Hi", "Ho"), "the chat template rejects this conversation"),
        ("{{ messages[0].content }}", chat("Hi", "Ho"), "does not show where the answers"),
        (CHATML, {"messages": chat("Hi", "Ho")["messages"][1:]}, "does not show where the answers"),
        (CHATML, {"text": "x"}, "no column `messages`"),
        (CHATML, {"messages": []}, "`messages` is empty"),
        (CHATML, chat("Hi", "Ho", tools="add()"), "`messages` has `tools` that are not JSON"),
    ],
)
def test_a_conversation_that_cannot_be_written_is_the_fault_of_its_row(
    source: str, row: dict[str, Any], says: str
) -> None:
    with pytest.raises(RowError, match=says):
        template(source).row(row, completion_only=True)


# -- a tokenizer's own --------------------------------------------------------------------------------------------------------


@pytest.fixture
def tokenizer(tiny_tokenizer: Any) -> Any:
    own = copy.deepcopy(tiny_tokenizer)
    own.add_tokens(["<think>", "</think>"])
    return own


@pytest.mark.parametrize("source", [CHATML, PHI3, QWEN3, PLAIN])
def test_the_text_is_that_of_the_tokenizer_itself(tokenizer: Any, source: str) -> None:
    tokenizer.chat_template = source
    made = ChatTemplate.from_config(tokenizer, True, "messages")
    messages = TURNS["messages"]
    assert made.row(TURNS, completion_only=False).pieces[0][0] == tokenizer.apply_chat_template(
        messages, tokenize=False
    )
    prompt = tokenizer.apply_chat_template(messages[:-1], tokenize=False, add_generation_prompt=True)
    assert made.render_prompt(TURNS) == prompt
    assert made.names["eos_token"] == tokenizer.eos_token
    assert {"<think>", "<|im_end|>", "<|endoftext|>"} <= set(made.markers)


def test_a_template_of_the_config_goes_before_the_tokenizers_own(tokenizer: Any) -> None:
    tokenizer.chat_template = CHATML
    assert ChatTemplate.from_config(tokenizer, PLAIN, "chat").source == PLAIN
    assert ChatTemplate.from_config(tokenizer, PLAIN, "chat").columns == ("chat",)


def test_of_several_templates_the_default_is_taken_and_without_one_it_is_said(tokenizer: Any) -> None:
    tokenizer.chat_template = {"default": CHATML, "tool_use": PLAIN}
    assert ChatTemplate.from_config(tokenizer, True, "messages").source == CHATML
    for none in (None, {"tool_use": PLAIN}):
        tokenizer.chat_template = none
        with pytest.raises(DataError, match="the model has no chat template") as caught:
            ChatTemplate.from_config(tokenizer, True, "messages")
        assert "chat_template" in caught.value.fix
        assert default_template(tokenizer).render_prompt({"text": "Hello"}) == "Hello"


def test_a_saved_template_comes_back_and_writes_the_same(tokenizer: Any, tmp_path: Path) -> None:
    made = ChatTemplate.from_config(tokenizer, QWEN3, "dialog")
    made.save(tmp_path)
    back = load_template(tmp_path)
    assert back == made
    row = {"dialog": TURNS["messages"]}
    assert back.row(row, completion_only=True).pieces == made.row(row, completion_only=True).pieces
    columns = PromptTemplate.from_text("{q}\n{a}")
    columns.save(tmp_path)
    assert load_template(tmp_path) == columns
    with pytest.raises(FileNotFoundError):
        load_template(tmp_path / "none")
