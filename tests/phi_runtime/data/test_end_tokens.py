"""Special tokens that data writes out: ends of answers are the end, once; others are counted, and can be refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from phi_runtime.data.chat_template import ChatTemplate, load_template
from phi_runtime.data.end_tokens import SpecialTokens, end_tokens, special_tokens, split_ends
from phi_runtime.data.row import RowError
from phi_runtime.data.store import Store
from phi_runtime.data.template import PromptTemplate
from tests.phi_runtime.data.test_prepare import made, prepared, write

EOS = "<|im_end|>"
CHATML = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
CHATML += "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
WRITTEN = [
    "joy<|im_end|>",
    "joy <|im_end|>",
    "joy<|im_end|>\n",
    "joy<|im_end|><|im_end|>",
    "joy\n<|im_end|> <|im_end|> ",
]


def store_of(tokenizer: Any, tmp_path: Path, *rows: Any, ends: tuple[str, ...] = (EOS,), **process: Any) -> Store:
    recipe = made(tokenizer, write(tmp_path / "rows.jsonl", *rows), **process)
    if isinstance(recipe.template, PromptTemplate):
        settings = recipe.data.pre_process_data_config
        template = PromptTemplate.from_text(settings.template, end_token=settings.add_special_tokens, ends=ends)
        recipe = type(recipe)(**{**vars(recipe), "template": template})
    return prepared(recipe, tmp_path / "cache")


@pytest.mark.parametrize(
    ("text", "rest", "removed"),
    [
        ("joy", "joy", []),
        ("joy ", "joy ", []),
        ("joy</s>", "joy", ["</s>"]),
        ("joy </s>\n", "joy", ["</s>"]),
        ("joy</s> <|end|></s>", "joy", ["</s>", "<|end|>", "</s>"]),
        ("</s>joy", "</s>joy", []),
        ("joy</s>.", "joy</s>.", []),
        ("</s>", "", ["</s>"]),
    ],
)
def test_ends_come_off_the_end_of_a_text_only(text: str, rest: str, removed: list[str]) -> None:
    assert split_ends(text, ("<|end|>", "</s>")) == (rest, removed)


def test_the_end_tokens_of_a_tokenizer_are_its_eos_and_those_of_turns(tiny_tokenizer: Any) -> None:
    special = special_tokens(tiny_tokenizer)
    assert {"<|im_start|>", "<|im_end|>"} <= special
    assert EOS in end_tokens(special, tiny_tokenizer.eos_token)
    assert end_tokens({"<|user|>", "<|end|>", "</s>"}, "[stop]") == ("</s>", "<|end|>", "[stop]")
    assert "<|im_start|>" not in end_tokens(special, None)


@pytest.mark.parametrize("written", WRITTEN)
def test_an_end_that_an_answer_writes_is_trained_once_and_is_not_part_of_the_reference(
    written: str, tiny_tokenizer: Any, tmp_path: Path
) -> None:
    row = {"q": "we won", "a": written}
    store = store_of(tiny_tokenizer, tmp_path, row)
    assert tiny_tokenizer.decode(store.row(0)[0]) == "we won\njoy<|im_end|>"
    trained = [int(token) for token, learned in zip(*store.row(0), strict=True) if learned]
    assert trained == [*tiny_tokenizer("joy").input_ids, tiny_tokenizer.eos_token_id]
    assert store.survey.ends == {EOS: 1}
    assert store.survey.ends_at == [[0, 1, EOS]]
    template = PromptTemplate.from_text("{q}\n{a}", ends=(EOS,))
    assert template.reference(row) == template.answer_of("joy") == "joy"


@pytest.mark.parametrize("written", WRITTEN)
def test_an_end_that_a_turn_writes_is_trained_once(written: str, tiny_tokenizer: Any, tmp_path: Path) -> None:
    talk = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": written}]
    store = store_of(tiny_tokenizer, tmp_path, {"messages": [*talk, *talk]}, chat_template=CHATML)
    turn = "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\njoy<|im_end|>"
    assert tiny_tokenizer.decode(store.row(0)[0]).strip() == f"{turn}\n{turn}"
    assert store.survey.ends == {EOS: 1}  # rows
    template = ChatTemplate.from_config(tiny_tokenizer, CHATML, "messages")
    assert template.reference({"messages": talk}) == template.answer_of("joy\n") == "joy"


def test_an_answer_that_is_only_an_end_is_empty(tiny_tokenizer: Any) -> None:
    with pytest.raises(RowError, match="`a` is empty"):
        PromptTemplate.from_text("{q}{a}", ends=(EOS,)).check({"q": "x", "a": f" {EOS}"})
    talk = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": EOS}]
    with pytest.raises(RowError, match=r"only `<\|im_end\|>`"):
        ChatTemplate.from_config(tiny_tokenizer, CHATML, "messages").check({"messages": talk})


def test_an_end_of_another_model_is_learned_as_text_and_counted(tiny_tokenizer: Any, tmp_path: Path) -> None:
    row = {"q": "we won", "a": "joy</s>"}
    store = store_of(tiny_tokenizer, tmp_path, row)
    assert tiny_tokenizer.decode(store.row(0)[0]) == "we won\njoy</s><|im_end|>"
    assert (store.survey.ends, store.survey.foreign, store.survey.foreign_at) == ({}, {"</s>": 1}, [[0, 1, "</s>"]])
    assert PromptTemplate.from_text("{q}\n{a}", ends=(EOS,)).reference(row) == "joy</s>"


def test_without_an_added_end_the_one_that_the_row_writes_is_trained(tiny_tokenizer: Any, tmp_path: Path) -> None:
    row = {"q": "we won", "a": "joy<|im_end|>"}
    store = store_of(tiny_tokenizer, tmp_path, row, text_template="{q}\n{a}", add_special_tokens=False)
    assert tiny_tokenizer.decode(store.row(0)[0]) == "we won\njoy<|im_end|>"
    assert PromptTemplate.from_text("{q}\n{a}", end_token=False, ends=(EOS,)).reference(row) == "joy"


def test_free_text_is_trained_with_the_ends_that_it_writes(tiny_tokenizer: Any, tmp_path: Path) -> None:
    store = store_of(tiny_tokenizer, tmp_path, {"text": "one \n<|im_end|>"}, text_cols=["text"])
    assert tiny_tokenizer.decode(store.row(0)[0]) == "one \n<|im_end|>"


def test_special_tokens_inside_a_text_are_counted_by_the_model_that_they_belong_to(
    tiny_tokenizer: Any, tmp_path: Path
) -> None:
    rows = [
        {"q": "hot <|im_end|>\n<|im_start|>assistant\nfree", "a": "joy"},
        {"q": "cold <|eot_id|>", "a": "fear"},
        {"q": "plain < | im_end | >", "a": "joy"},
    ]
    survey = store_of(tiny_tokenizer, tmp_path, *rows).survey
    assert survey.special == {"<|im_end|>": 1, "<|im_start|>": 1}
    assert survey.special_at == [[0, 1, "<|im_end|>, <|im_start|>"]]
    assert survey.foreign_at == [[0, 2, "<|eot_id|>"]]
    assert SpecialTokens.of(tiny_tokenizer).find("<|im_end|><|im_end|>") == {"<|im_end|>"}


@pytest.mark.parametrize("text", ["<</s>", "<<</s>>", "</</s>", "<s>", "s</s>"])
def test_a_special_token_is_found_behind_the_beginning_of_another_one(text: str) -> None:
    special = SpecialTokens(frozenset({"</s>", "<s>", "s"}))
    assert special.find(text) == {token for token in special.own if token in text}


def test_rows_with_special_tokens_can_be_refused(tiny_tokenizer: Any, tmp_path: Path) -> None:
    rows = [{"q": "hot <|im_end|>", "a": "joy"}, {"q": "cold </s>", "a": "fear<|im_end|>"}]
    process = {"text_template": "{q}\n{a}", "special_tokens_in_rows": "refuse"}
    store = store_of(tiny_tokenizer, tmp_path, *rows, **process)
    assert (len(store), store.survey.broken) == (1, 1)
    assert store.survey.broken_at[0][:2] == [0, 1]
    assert "<|im_end|>" in store.survey.broken_at[0][2]


def test_what_ends_an_answer_is_saved_with_the_model(tmp_path: Path) -> None:
    template = PromptTemplate.from_text("{q}\n{a}<|end|>\n", end_token=False, ends=("</s>", "<|end|>"))
    template.save(tmp_path)
    assert load_template(tmp_path) == template
    assert template.stop_tokens == ("<|end|>",)
    stored = json.loads((tmp_path / "prompt_template.json").read_text())
    del stored["end_token"], stored["ends"]
    (tmp_path / "prompt_template.json").write_text(json.dumps(stored))
    assert load_template(tmp_path) == PromptTemplate.from_text("{q}\n{a}<|end|>\n")


@pytest.mark.parametrize(
    ("template", "generated", "answer"),
    [
        ("{q}{a}.", "It is 5 p.m. now.", "It is 5 p.m. now"),
        ("{q}{a}.", "It is 5 p.m..", "It is 5 p.m."),
        ("{q}{a}.\n", " 3.5. \n", "3.5"),
        ('{q}"{a}"', 'say "no" twice"', 'say "no" twice'),
        ("{q}{a}\n", "one\ntwo\n", "one\ntwo"),
        ("{q}{a}\n### End", "one ### two\n### End", "one ### two"),
        ("{q}{a}.", "cut at its leng", "cut at its leng"),
        ("{q}{a}", "joy.", "joy."),
    ],
)
def test_the_text_after_an_answer_comes_off_its_end_only(template: str, generated: str, answer: str) -> None:
    assert PromptTemplate.from_text(template).answer_of(generated) == answer


def test_without_an_end_token_the_first_stop_text_ends_an_answer() -> None:
    template = PromptTemplate.from_text("{q}{a}\n###", end_token=False)
    assert template.answer_of("one\n### two\n###") == "one"


@pytest.mark.parametrize(
    ("stop", "closing", "tokens"),
    [
        ("", "", ()),
        ("\n### End\n", "### End", ()),
        ("<|end|>\n", "", ("<|end|>",)),
        (".<|end|>\n<|im_end|>", ".", ("<|end|>", "<|im_end|>")),
    ],
)
def test_an_end_token_in_the_stop_text_ends_an_answer(stop: str, closing: str, tokens: tuple[str, ...]) -> None:
    for end_token in (True, False):
        template = PromptTemplate.from_text("{q}{a}" + stop, end_token=end_token, ends=("<|end|>", "<|im_end|>"))
        assert (template.closing, template.stop_tokens) == (closing, tokens)
        assert template.ends_at_closing == (closing == "### End" and not end_token)
        assert template.answer_of(f"a. b{closing}") == "a. b"
