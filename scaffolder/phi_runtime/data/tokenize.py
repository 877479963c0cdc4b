"""Rows into token ids and labels: exactly what the model reads, and which of it is trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from phi_runtime.data.rows import Row
from phi_runtime.data.template import PromptTemplate
from phi_runtime.errors import DataError, Location

IGNORED = -100


@dataclass(frozen=True)
class Encoded:
    """Examples `{"input_ids": [...], "labels": [...]}` of equal lengths each, and what became of the rows."""

    examples: list[dict[str, list[int]]]
    rows: int
    too_long: int

    @property
    def tokens(self) -> int:
        return sum(len(e["input_ids"]) for e in self.examples)

    @property
    def trained_tokens(self) -> int:
        return sum(label != IGNORED for e in self.examples for label in e["labels"])


def prompt_ids(tokenizer: Any, prompt: str) -> list[int]:
    """The prompt as inference reads it: with the tokenizer's own BOS, once even where the prompt spells it out."""
    spelled = bool(tokenizer.bos_token) and prompt.startswith(tokenizer.bos_token)
    return list(tokenizer(prompt, add_special_tokens=not spelled).input_ids)


def encode_row(row: Row, template: PromptTemplate, tokenizer: Any, completion_only: bool) -> dict[str, list[int]]:
    """One row as ids and labels, with one end token.

    The prompt is tokenised alone, as inference does. Where the text as a whole would be tokenised so that a token crosses the
    border between prompt and completion, the two stay apart: the model must learn to go on from the prompt that it will be given.
    """
    prompt, completion = template.render_prompt(row.values), template.render_completion(row.values)
    head = prompt_ids(tokenizer, prompt)
    whole = prompt_ids(tokenizer, prompt + completion)
    tail = (
        whole[len(head) :]
        if whole[: len(head)] == head
        else list(tokenizer(completion, add_special_tokens=False).input_ids)
    )
    if not tail or tail[-1] != tokenizer.eos_token_id:
        tail.append(tokenizer.eos_token_id)
    return {"input_ids": head + tail, "labels": ([IGNORED] * len(head) if completion_only else head) + tail}


def encode_rows(
    rows: Sequence[Row],
    template: PromptTemplate,
    tokenizer: Any,
    *,
    max_seq_len: int,
    completion_only: bool,
    path: Path,
) -> Encoded:
    """All rows, one example a row; rows of more than `max_seq_len` tokens are dropped and counted.

    Raises DataError when no row fits into `max_seq_len`.
    """
    examples = [encode_row(row, template, tokenizer, completion_only) for row in rows]
    fitting = [e for e in examples if len(e["input_ids"]) <= max_seq_len]
    if rows and not fitting:
        shortest = min(len(e["input_ids"]) for e in examples)
        raise DataError(
            f"every row is longer than max_seq_len = {max_seq_len} tokens (the shortest has {shortest})",
            where=Location(path),
            fix="raise pre_process_data_config.max_seq_len",
        )
    return Encoded(fitting, len(rows), len(rows) - len(fitting))
