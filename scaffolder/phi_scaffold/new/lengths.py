"""Limits in tokens, from the longest rows: counted if the model's tokenizer is on this machine, else from their sizes."""

from __future__ import annotations

import functools
import os
import zipfile
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

from phi_runtime.core.hub_id import hub_home
from phi_runtime.data.columns import Columns
from phi_runtime.data.template import PromptTemplate
from phi_runtime.models.embedded import EMBEDDED
from phi_scaffold.new.answers import Answers
from phi_scaffold.new.base_models import UNKNOWN_CONTEXT, base_model

Counter = Callable[[str], int]

_SPECIAL = 2  # tokens at the start and the end of a text
_TURN, _CHAT = 10, 60  # tokens of a chat template around each message, and around a conversation


def lengths_of(answers: Answers, columns: Columns, text_template: str, optional: list[str]) -> dict[str, int]:
    """Return `max_seq_len` and `max_new_tokens`, powers of two that the longest row and the longest answer fit into.

    A context that is no power of two is the limit of `max_seq_len`.
    """
    model = base_model(answers.model)
    most = min(2048, model.context if model else UNKNOWN_CONTEXT)
    # Two characters are at most a token of usual text.
    longest = (columns.longest + (200 if columns.kind == "chat" else len(text_template))) / 2
    longest_answer = columns.longest_answer / 2
    if columns.longest_rows and (count := _counter(answers.model)):
        longest = max(_tokens(row, columns, text_template, optional, count) for row in columns.longest_rows)
        longest_answer = max(map(count, columns.longest_answers)) + 1
    return {
        "max_seq_len": min(512, most) if columns.kind == "text" else _power_of_two(longest, 128, most),
        "max_new_tokens": _power_of_two(longest_answer, 8 if answers.task == "classification" else 16, 256),
    }


def _tokens(row: Any, columns: Columns, text_template: str, optional: list[str], count: Counter) -> int:
    if columns.kind == "chat":
        return _CHAT + sum(_TURN + count(text) for text in row)
    if columns.kind == "text":
        return count(row[columns.answer])
    template = PromptTemplate.from_text(text_template, optional=optional)
    return _SPECIAL + count(template.render_prompt(row) + template.render_completion(row))


def _counter(model: str) -> Counter | None:
    """Return the function that counts the tokens of a text; None without the tokenizer, or the library that reads it."""
    try:
        from tokenizers import Tokenizer
    except ImportError:
        return None
    if model in EMBEDDED:
        tokenizer = _embedded(model)
    elif file := next(iter(_downloaded(model)), None):
        tokenizer = Tokenizer.from_file(str(file))
    else:
        return None
    return lambda text: len(tokenizer.encode(text, add_special_tokens=False).ids)


@functools.cache
def _embedded(model: str) -> Any:
    from tokenizers import Tokenizer

    with files("phi_runtime.models").joinpath(EMBEDDED[model].tokenizer).open("rb") as packed:
        return Tokenizer.from_str(zipfile.ZipFile(packed).read("tokenizer.json").decode())


def _downloaded(model: str) -> list[Path]:
    """Return the files of the tokenizer in the folder of the model, or in the cache of the Hub."""
    if Path(model).is_absolute():
        return [*Path(model).glob("tokenizer.json")]
    cache = Path(os.environ.get("HF_HUB_CACHE") or hub_home() / "hub")
    return sorted(cache.glob(f"models--{model.replace('/', '--')}/snapshots/*/tokenizer.json"))


def _power_of_two(size: float, least: int, most: int) -> int:
    power = least
    while power < size and power < most:
        power *= 2
    return min(power, most)
