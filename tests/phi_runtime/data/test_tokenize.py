"""Rows become exactly the tokens that inference will see, and only answers are trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from phi_runtime.data.rows import Row
from phi_runtime.data.template import PromptTemplate
from phi_runtime.data.tokenize import IGNORED, encode_row, encode_rows, prompt_ids
from phi_runtime.errors import DataError

ROW = Row({"phrase": "we won the game", "tone": "joy"}, 1)
PLAIN = PromptTemplate.from_text("### Text: {phrase}\n### The tone is:\n{tone}")
CHAT = PromptTemplate.from_text("<|im_start|>user\n{phrase}<|im_end|>\n<|im_start|>assistant\n{tone}<|im_end|>")


@pytest.mark.parametrize("template", [PLAIN, CHAT])
def test_the_prompt_is_masked_and_the_answer_with_one_end_token_is_trained(
    template: PromptTemplate, tiny_tokenizer: Any
) -> None:
    example = encode_row(ROW, template, tiny_tokenizer, completion_only=True)
    prompt = prompt_ids(tiny_tokenizer, template.render_prompt(ROW.values))
    assert example["input_ids"][: len(prompt)] == prompt
    assert example["labels"][: len(prompt)] == [IGNORED] * len(prompt)
    trained = [t for t in example["labels"] if t != IGNORED]
    assert tiny_tokenizer.decode(trained) == "joy<|im_end|>"
    assert trained.count(tiny_tokenizer.eos_token_id) == 1


def test_on_request_the_prompt_is_trained_too(tiny_tokenizer: Any) -> None:
    example = encode_row(ROW, PLAIN, tiny_tokenizer, completion_only=False)
    assert example["labels"] == example["input_ids"]


def test_a_bos_that_the_prompt_spells_out_is_not_doubled(tiny_tokenizer: Any) -> None:
    import copy

    from tokenizers.processors import TemplateProcessing

    adding = copy.deepcopy(tiny_tokenizer)
    bos = adding.bos_token
    adding.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{bos} $A", special_tokens=[(bos, adding.bos_token_id)]
    )
    assert prompt_ids(adding, "hello")[0] == adding.bos_token_id
    assert prompt_ids(adding, f"{bos}user").count(adding.bos_token_id) == 1


def test_a_token_across_the_border_does_not_change_the_prompt(tiny_tokenizer: Any) -> None:
    template = PromptTemplate.from_text("{q}{a}")
    row = Row({"q": "so hap", "a": "py song"}, 1)
    example = encode_row(row, template, tiny_tokenizer, completion_only=True)
    prompt = prompt_ids(tiny_tokenizer, "so hap")
    assert example["input_ids"][: len(prompt)] == prompt
    assert tiny_tokenizer.decode(example["input_ids"]) == "so happy song<|im_end|>"


def test_long_rows_are_dropped_and_counted(tiny_tokenizer: Any) -> None:
    long = Row({"phrase": "word " * 100, "tone": "joy"}, 2)
    encoded = encode_rows([ROW, long], PLAIN, tiny_tokenizer, max_seq_len=64, completion_only=True, path=Path("x"))
    assert (len(encoded.examples), encoded.rows, encoded.too_long) == (1, 2, 1)
    with pytest.raises(DataError, match="every row is longer"):
        encode_rows([long], PLAIN, tiny_tokenizer, max_seq_len=64, completion_only=True, path=Path("x"))
