"""Stores of rows that a test writes down, without files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from phi_runtime.data.chat_template import Template
from phi_runtime.data.prepare import _hashes
from phi_runtime.data.sequences import IGNORED, Example, Sequences
from phi_runtime.data.store import ROW, Store
from phi_runtime.data.tokenize import Encoded, Encoder


def store_of(rows: Sequence[Encoded], questions: Sequence[tuple[str, str]] | None = None) -> Store:
    """A store of encoded rows; `questions` are what each asks and the answer, which the split goes by."""
    named = questions or [(f"question {i}", f"answer {i}") for i in range(len(rows))]
    table = [
        (0, i + 1, i, len(row.ids), row.trained_count, *_hashes(*named[i]), row.endless) for i, row in enumerate(rows)
    ]
    return Store(
        np.array([token for row in rows for token in row.ids], dtype=np.uint32),
        np.array([flag for row in rows for flag in row.trained], dtype=bool),
        np.array(table, dtype=ROW),
    )


def encoded(
    values: Sequence[Mapping[str, Any]],
    template: Template,
    tokenizer: Any,
    *,
    completion_only: bool = False,
    end_token: bool = True,
) -> Store:
    """A store of rows by column."""
    encoder = Encoder(tokenizer, end_token=end_token, chat=not template.special)
    rows = encoder.encode([template.pieces(v, completion_only=completion_only) for v in values])
    return store_of(rows, [(template.question(v), template.reference(v)) for v in values])


def sequences_of(examples: Sequence[Mapping[str, Sequence[int]]]) -> Sequences:
    """Sequences that are these very examples of `input_ids` and `labels`."""
    rows = [Encoded(list(e["input_ids"]), [label != IGNORED for label in e["labels"]]) for e in examples]
    store = store_of(rows)
    spans = np.stack([store.starts[:-1], store.starts[1:], np.zeros(len(rows), np.int64)], axis=1)
    return Sequences(store.tokens, store.trained, spans, len(rows))


def as_lists(sequences: Sequences) -> list[dict[str, list[int]]]:
    """The sequences as plain lists."""
    return [{name: ids.tolist() for name, ids in example.items()} for example in _each(sequences)]


def _each(sequences: Sequences) -> list[Example]:
    return [sequences[i] for i in range(len(sequences))]
