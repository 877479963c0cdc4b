"""A conversation within the context of its model: which turns are read, dropped, refused and saved."""

from __future__ import annotations

from dataclasses import replace

import pytest

from phi_runtime.core.errors import UsageError
from phi_runtime.data.template import PromptTemplate
from phi_runtime.inference.generator import PromptTooLong, SamplingParams
from phi_runtime.pipeline.conversation import Conversation, Turn
from tests.phi_scaffold.echo_model import CHAT, WITHOUT_SYSTEM, session


def converse(conversation: Conversation, *texts: str) -> str:
    """Ask each text, and return the last answer."""
    written = ""
    for text in texts:
        answer = conversation.ask(text)
        written = "".join(piece.text for piece in answer).strip()
        conversation.turns.append(Turn(text, written, answer.finish == "stop"))
    return written


def prompts(conversation: Conversation) -> list[str]:
    return conversation.session.generator.prompts  # type: ignore[attr-defined,no-any-return]


def test_a_full_context_drops_the_oldest_turns_with_their_answers() -> None:
    conversation = Conversation(session(context_length=40), SamplingParams(8))
    # A prompt of n turns of one word each has 6n words, an answer 3; the context has room for 32.
    converse(conversation, "a", "b", "c", "d", "e")
    assert (len(prompts(conversation)[-1].split()), conversation.dropped) == (27, 0)
    assert converse(conversation, "f") == "read 21: f"  # 33 do not fit; 21 are at most three quarters of 32
    assert conversation.dropped == 2
    assert prompts(conversation)[-1].startswith("<user> c <assistant> read 15: c <user> d")
    assert converse(conversation, "g") == "read 27: g"  # the freed room is used: nothing is dropped
    assert conversation.dropped == 2
    converse(conversation, "h")
    assert conversation.dropped == 4
    assert [turn.question for turn in conversation.turns] == list("abcdefgh")


def test_the_system_message_is_never_dropped() -> None:
    conversation = Conversation(session(context_length=40), SamplingParams(8))
    conversation.instruct("be brief")
    converse(conversation, *"abcdefgh")
    assert conversation.dropped
    assert all(prompt.startswith("<system> be brief <user>") for prompt in prompts(conversation))
    conversation.clear()
    assert converse(conversation, "a") == "read 6: a"
    assert conversation.dropped == 0


def test_a_message_that_is_too_long_by_itself_drops_nothing_and_is_not_kept() -> None:
    conversation = Conversation(session(context_length=40), SamplingParams(8))
    converse(conversation, "a", "b")
    with pytest.raises(PromptTooLong, match="52 tokens, of 32"):
        conversation.ask("x " * 50)
    assert (len(conversation.turns), conversation.dropped) == (2, 0)
    assert converse(conversation, "c") == "read 15: c"


def test_a_message_that_fits_only_alone_drops_all_turns() -> None:
    conversation = Conversation(session(context_length=40), SamplingParams(8))
    converse(conversation, "a", "b")
    assert converse(conversation, "x " * 29 + "x").startswith("read 32:")
    assert conversation.dropped == 2


def test_a_long_limit_of_the_answer_leaves_half_of_the_context_to_the_prompt() -> None:
    conversation = Conversation(session(context_length=40), SamplingParams(5000))
    answer = conversation.ask("long")
    assert sum(1 for _ in zip(range(45), answer, strict=False)) == 37  # the rest of the context
    assert answer.finish == "length"
    with pytest.raises(PromptTooLong):
        conversation.ask("x " * 19)


def test_a_model_of_text_prompts_reads_no_earlier_turn() -> None:
    template = PromptTemplate.from_text("Text: {phrase}\nTone: {tone}")
    conversation = Conversation(session(template, context_length=40), SamplingParams(8))
    converse(conversation, *["a b"] * 30)
    assert set(prompts(conversation)) == {"Text: a b\nTone: "}
    assert conversation.dropped == 0
    with pytest.raises(UsageError):
        conversation.instruct("be brief")


def test_a_system_message_that_the_template_leaves_out_is_refused() -> None:
    conversation = Conversation(session(WITHOUT_SYSTEM), SamplingParams(8))
    with pytest.raises(UsageError):
        conversation.instruct("be brief")
    assert conversation.system == ""
    rejects = replace(CHAT, source="{% if messages[0].role == 'system' %}{{ raise_exception('no') }}{% endif %}x")
    with pytest.raises(UsageError):
        Conversation(session(rejects), SamplingParams(8)).instruct("be brief")


def test_another_model_continues_unless_its_prompts_have_another_format() -> None:
    conversation = Conversation(session(), SamplingParams(8))
    conversation.instruct("be brief")
    converse(conversation, "a")
    assert conversation.use(session(context_length=80))
    assert converse(conversation, "b") == "read 12: b"
    assert not conversation.use(session(WITHOUT_SYSTEM))
    assert (conversation.turns, conversation.system) == ([], "")
    converse(conversation, "a")
    assert not conversation.use(session(PromptTemplate.from_text("{text} {label}")))
    assert conversation.turns == []


def test_a_model_that_cannot_be_opened_leaves_the_conversation_with_the_current_one() -> None:
    conversation = Conversation(session(), SamplingParams(8))
    converse(conversation, "a")

    def fail() -> None:
        assert not hasattr(conversation, "session")  # its memory is free before the next model is loaded
        raise UsageError("no such model")

    with pytest.raises(UsageError):
        conversation.switch(fail, session)  # type: ignore[arg-type]
    assert converse(conversation, "b") == "read 9: b"


def test_a_saved_conversation_is_a_data_row_in_which_a_cut_answer_is_not_trained() -> None:
    conversation = Conversation(session(), SamplingParams(4))
    conversation.instruct("be brief")
    converse(conversation, "b c d")
    assert conversation.rows() == []  # a row without a trained answer is an error of the data
    conversation.clear()
    converse(conversation, "a", "b c d")
    assert conversation.rows() == [
        {
            "messages": [
                {"role": "system", "content": "be brief"},
                {"role": "user", "content": "a"},
                {"role": "assistant", "content": "read 6: a"},
                {"role": "user", "content": "b c d"},
                {"role": "assistant", "content": "read 14: b c", "weight": 0},
            ]
        }
    ]


def test_saved_turns_of_text_prompts_are_rows_with_the_columns_of_the_training() -> None:
    def rows(template: str, *turns: Turn, optional: tuple[str, ...] = ()) -> object:
        made = PromptTemplate.from_text(template, optional=optional)
        conversation = Conversation(session(made), SamplingParams(8))
        for turn in turns:
            conversation.turns.append(turn)
        return conversation.rows()

    cut = Turn("c", "fe", complete=False)
    assert rows("{phrase} {tone}", Turn("a", "joy"), cut) == [{"phrase": "a", "tone": "joy"}]
    both = Turn('{"question": "q", "context": "c"}', "yes")
    assert rows("{context} {question} {answer}", both) == [{"context": "c", "question": "q", "answer": "yes"}]
    plain, full = Turn("do it", "done"), Turn('{"task": "do", "input": "this"}', "done")
    assert rows("{task}\n{input}\n{output}", plain, full, optional=("input",)) == [
        {"task": "do it", "output": "done"},
        {"task": "do", "input": "this", "output": "done"},
    ]
    assert rows("{text}", Turn("Once", " upon a time")) == [{"text": "Once upon a time"}]
