"""Rows into token ids and labels: exactly what the model reads, and which of it is trained."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from phi_runtime.data.dataset import Side
from phi_runtime.data.rows import Row
from phi_runtime.data.sequences import IGNORED, Example, Sequences, make
from phi_runtime.data.template import PromptTemplate
from phi_runtime.errors import DataError, Location


def prompt_ids(tokenizer: Any, prompt: str) -> list[int]:
    """The prompt as inference reads it: with the tokenizer's own BOS, once even where the prompt spells it out."""
    spelled = bool(tokenizer.bos_token) and prompt.startswith(tokenizer.bos_token)
    return list(tokenizer(prompt, add_special_tokens=not spelled).input_ids)


def encode_row(
    row: Row, template: PromptTemplate, tokenizer: Any, *, completion_only: bool, end_token: bool = True
) -> Example:
    """One row as ids and labels, with exactly one end token, or with `end_token` false none but the text's own.

    With `completion_only` the prompt is masked and tokenised alone, as inference does. Where the text as a whole would be
    tokenised so that a token crosses the border between prompt and completion, the two stay apart: the model must learn to go
    on from the prompt that it will be given. Otherwise the text is tokenised, and trained, as a whole.
    """
    prompt, completion = template.render_prompt(row.values), template.render_completion(row.values)
    head = prompt_ids(tokenizer, prompt) if completion_only else []
    ids = prompt_ids(tokenizer, prompt + completion)
    if ids[: len(head)] != head:
        ids = head + tokenizer(completion, add_special_tokens=False).input_ids
    end = tokenizer.eos_token_id
    if end_token and end is not None and (len(ids) == len(head) or ids[-1] != end):
        ids.append(end)
    return {"input_ids": ids, "labels": [IGNORED] * len(head) + ids[len(head) :]}


def encode(side: Side, tokenizer: Any, data_seed: int) -> Sequences:
    """The sequences of one side of a data set. Raises DataError when none is left."""
    settings = side.settings
    rows = [
        encode_row(
            row,
            side.template,
            tokenizer,
            completion_only=side.completion_only,
            end_token=settings.add_special_tokens,
        )
        for row in side.rows
    ]
    joiner = tokenizer(settings.joiner, add_special_tokens=False).input_ids if settings.joiner else []
    try:
        made = make(rows, settings, joiner=joiner, completion_only=side.completion_only, data_seed=data_seed)
    except DataError as e:
        raise DataError(e.what, where=Location(side.path), fix=e.fix) from None
    ends = {*tokenizer.all_special_ids, *tokenizer.get_added_vocab().values()}
    return replace(made, endless=sum(not row["input_ids"] or row["input_ids"][-1] not in ends for row in rows))
