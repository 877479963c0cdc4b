"""Rows become exactly the tokens that inference will see, and what is trained of them is what was asked for."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from phi_runtime.data.dataset import Side
from phi_runtime.data.rows import Row
from phi_runtime.data.sequences import IGNORED, Example
from phi_runtime.data.template import PromptTemplate
from phi_runtime.data.tokenize import encode, encode_row, prompt_ids
from phi_runtime.errors import DataError
from phi_runtime.workflow.schema import PreProcess

ROW = Row({"phrase": "we won the game", "tone": "joy"}, 1)
PLAIN = PromptTemplate.from_text("### Text: {phrase}\n### The tone is:\n{tone}")
CHAT = PromptTemplate.from_text("<|im_start|>user\n{phrase}<|im_end|>\n<|im_start|>assistant\n{tone}<|im_end|>")
TEXTS = ["we won the game 1", "dark cold noise 2", "a lovely party 3"]


@pytest.fixture
def bos_tokenizer(tiny_tokenizer: Any) -> Any:
    """One that puts a BOS before every text, as Llama's and Phi-3's once did."""
    from tokenizers.processors import TemplateProcessing

    adding = copy.deepcopy(tiny_tokenizer)
    bos = adding.bos_token
    adding.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{bos} $A", special_tokens=[(bos, adding.bos_token_id)]
    )
    return adding


def side(rows: list[dict[str, str]], template: str, *, completion_only: bool = False, **chosen: Any) -> Side:
    settings = PreProcess.model_validate({"text_template": template, **chosen})
    numbered = [Row(values, i) for i, values in enumerate(rows, start=1)]
    return Side(numbered, PromptTemplate.from_text(template), settings, completion_only, Path("rows.jsonl"))


def texts(**chosen: Any) -> Side:
    return side([{"text": t} for t in TEXTS], "{text}", **chosen)


def trained(tokenizer: Any, example: Example) -> str:
    return str(tokenizer.decode([t for t in example["labels"] if t != IGNORED]))


# -- one row ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("template", [PLAIN, CHAT])
def test_the_prompt_is_masked_and_the_answer_with_one_end_token_is_trained(
    template: PromptTemplate, tiny_tokenizer: Any
) -> None:
    example = encode_row(ROW, template, tiny_tokenizer, completion_only=True)
    prompt = prompt_ids(tiny_tokenizer, template.render_prompt(ROW.values))
    assert example["input_ids"][: len(prompt)] == prompt
    assert example["labels"][: len(prompt)] == [IGNORED] * len(prompt)
    assert trained(tiny_tokenizer, example) == "joy<|im_end|>"
    assert example["labels"].count(tiny_tokenizer.eos_token_id) == 1


def test_on_request_the_prompt_is_trained_too(tiny_tokenizer: Any) -> None:
    example = encode_row(ROW, PLAIN, tiny_tokenizer, completion_only=False)
    assert example["labels"] == example["input_ids"]


def test_a_bos_that_the_prompt_spells_out_is_not_doubled(bos_tokenizer: Any) -> None:
    bos = bos_tokenizer.bos_token
    assert prompt_ids(bos_tokenizer, "hello")[0] == bos_tokenizer.bos_token_id
    assert prompt_ids(bos_tokenizer, f"{bos}user").count(bos_tokenizer.bos_token_id) == 1


def test_a_token_across_the_border_does_not_change_the_prompt(tiny_tokenizer: Any) -> None:
    template = PromptTemplate.from_text("{q}{a}")
    row = Row({"q": "so hap", "a": "py song"}, 1)
    example = encode_row(row, template, tiny_tokenizer, completion_only=True)
    prompt = prompt_ids(tiny_tokenizer, "so hap")
    assert example["input_ids"][: len(prompt)] == prompt
    assert tiny_tokenizer.decode(example["input_ids"]) == "so happy song<|im_end|>"


def test_a_text_that_is_trained_whole_is_tokenised_whole(tiny_tokenizer: Any) -> None:
    template = PromptTemplate.from_text("{q}{a}")
    row = Row({"q": "sunny hap", "a": "py song"}, 1)
    whole = tiny_tokenizer("sunny happy song", add_special_tokens=False).input_ids
    apart = [t for part in ("sunny hap", "py song") for t in tiny_tokenizer(part, add_special_tokens=False).input_ids]
    assert whole != apart
    end = tiny_tokenizer.eos_token_id
    assert encode_row(row, template, tiny_tokenizer, completion_only=False)["input_ids"] == [*whole, end]
    assert encode_row(row, template, tiny_tokenizer, completion_only=True)["input_ids"] == [*apart, end]


@pytest.mark.parametrize("completion_only", [True, False])
def test_free_text_has_its_own_bos_once_one_end_and_no_blank_between(bos_tokenizer: Any, completion_only: bool) -> None:
    template = PromptTemplate.from_text("{text}")
    example = encode_row(Row({"text": TEXTS[0]}, 1), template, bos_tokenizer, completion_only=completion_only)
    assert bos_tokenizer.decode(example["input_ids"]) == f"<|im_start|>{TEXTS[0]}<|im_end|>"
    assert example["labels"][1:] == example["input_ids"][1:]


def test_without_an_end_token_a_text_ends_as_it_is_written(tiny_tokenizer: Any) -> None:
    plain = encode_row(ROW, PLAIN, tiny_tokenizer, completion_only=True, end_token=False)
    assert trained(tiny_tokenizer, plain) == "joy"
    chat = encode_row(ROW, CHAT, tiny_tokenizer, completion_only=True, end_token=False)
    assert trained(tiny_tokenizer, chat) == "joy<|im_end|>"


# -- the rows of a side -----------------------------------------------------------------------------------------------------

ALL = "we won the game 1<|im_end|>\n\ndark cold noise 2<|im_end|>\n\na lovely party 3<|im_end|>\n\n"


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        ({"strategy": "line-by-line"}, [f"{t}<|im_end|>" for t in TEXTS]),
        ({"strategy": "line-by-line", "max_samples": 2}, [f"{t}<|im_end|>" for t in TEXTS[:2]]),
        (
            {"strategy": "line-by-line-random", "max_samples": 4, "random_seed": 1},
            [f"{TEXTS[i]}<|im_end|>" for i in (0, 2, 0, 1)],
        ),
        ({"strategy": "join"}, [ALL]),
        ({"strategy": "join", "joiner": ""}, [ALL.replace("\n", "")]),
        ({"strategy": "join", "joiner": " | "}, [ALL.replace("\n\n", " | ")]),
        ({"strategy": "join", "add_special_tokens": False}, [ALL.replace("<|im_end|>", "")]),
    ],
)
def test_each_strategy_makes_these_very_texts(tiny_tokenizer: Any, chosen: dict[str, Any], expected: list[str]) -> None:
    found = encode(texts(**chosen), tiny_tokenizer, data_seed=0)
    assert [tiny_tokenizer.decode(e["input_ids"]) for e in found.examples] == expected
    assert all(e["labels"] == e["input_ids"] for e in found.examples)


def test_rows_that_are_cut_into_blocks_join_again_to_the_whole_text(tiny_tokenizer: Any) -> None:
    found = encode(texts(strategy="join", max_seq_len=10), tiny_tokenizer, data_seed=0)
    assert [len(e["input_ids"]) for e in found.examples][:-1] == [10] * (len(found.examples) - 1)
    assert tiny_tokenizer.decode([t for e in found.examples for t in e["input_ids"]]) == ALL


def test_windows_overlap_and_train_the_text_after_the_first_context_once(tiny_tokenizer: Any) -> None:
    chosen: dict[str, Any] = {"strategy": "join-sliding-window", "max_seq_len": 8, "stride": 3}
    found = encode(texts(**chosen), tiny_tokenizer, data_seed=0)
    context = tiny_tokenizer.decode(found.examples[0]["input_ids"][:5])
    assert context + "".join(trained(tiny_tokenizer, e) for e in found.examples) == ALL


def test_each_row_of_a_join_has_its_own_bos(bos_tokenizer: Any) -> None:
    (example,) = encode(texts(strategy="join"), bos_tokenizer, data_seed=0).examples
    assert bos_tokenizer.decode(example["input_ids"]) == "".join(f"<|im_start|>{t}<|im_end|>\n\n" for t in TEXTS)


def test_a_join_of_questions_trains_the_answers_and_their_ends_alone(tiny_tokenizer: Any) -> None:
    rows = [{"q": "the game", "a": "joy"}, {"q": "the fire", "a": "fear"}]
    asked = side(rows, "{q}\n{a}", completion_only=True, strategy="join")
    (example,) = encode(asked, tiny_tokenizer, data_seed=0).examples
    assert tiny_tokenizer.decode(example["input_ids"]) == "the game\njoy<|im_end|>\n\nthe fire\nfear<|im_end|>\n\n"
    assert trained(tiny_tokenizer, example) == "joy<|im_end|>fear<|im_end|>"


def test_rows_that_end_without_a_special_token_are_counted(tiny_tokenizer: Any) -> None:
    def endless(template: str, **chosen: Any) -> int:
        return encode(side([dict(ROW.values)], template, **chosen), tiny_tokenizer, data_seed=0).endless

    assert endless("{phrase} {tone}") == 0
    assert endless("{phrase} {tone}", add_special_tokens=False) == 1
    assert endless("{phrase} {tone}<|im_end|>", add_special_tokens=False) == 0
    assert endless("{phrase} {tone}<|im_end|>\n", add_special_tokens=False) == 1


def test_where_no_row_is_left_the_file_is_named(tiny_tokenizer: Any) -> None:
    long = [{"q": "word " * 100, "a": "joy"}]
    with pytest.raises(DataError, match=r"rows\.jsonl: error: every row is longer") as caught:
        encode(side(long, "{q}\n{a}", completion_only=True, strategy="line-by-line", max_seq_len=64), tiny_tokenizer, 0)
    assert caught.value.fix
