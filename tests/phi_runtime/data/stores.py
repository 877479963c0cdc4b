"""Stores of rows that a test writes down, without files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from phi_runtime.data.chat_template import Template
from phi_runtime.data.clusters import find_clusters
from phi_runtime.data.prepare import facts_of, store_part
from phi_runtime.data.sequences import IGNORED, Example, Sequences
from phi_runtime.data.store import Store
from phi_runtime.data.survey import Survey
from phi_runtime.data.template import Rendered
from phi_runtime.data.tokenize import Encoded, EncodedBatch, Encoder


def marked(ids: Sequence[int], trained: Sequence[bool], endless: bool = False) -> Encoded:
    """A row whose ids are trained one by one as `trained` says."""
    places = [i for i, flag in enumerate(trained) if flag]
    borders = [i for i in places if i - 1 not in places]
    runs = [(start, next(i for i in range(start, len(ids) + 1) if i not in places)) for start in borders]
    return Encoded(list(ids), runs, endless)


def mask(row: Encoded) -> list[bool]:
    """The training mask of the ids of a row."""
    trained: list[bool] = EncodedBatch.of([row]).trained.tolist()
    return trained


def store_of(
    rows: Sequence[Encoded],
    questions: Sequence[tuple[str, str] | Rendered] | None = None,
    groups: Sequence[Any] | None = None,
) -> Store:
    """A store of encoded rows; `questions` are question and answer of each, which decide the split, as do `groups`."""
    named = questions or [(f"question {i}", f"answer {i}") for i in range(len(rows))]
    rendered = [row if isinstance(row, Rendered) else Rendered([], *row) for row in named]
    facts = [facts_of((0, i + 1, i), row, groups[i] if groups else None) for i, row in enumerate(rendered)]
    store = store_part(facts, EncodedBatch.of(rows))
    clusters = find_clusters(store)
    survey = Survey(openings=clusters.openings, crowded=clusters.crowded)
    return replace(store, clusters=clusters.names, survey=survey)


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
    rendered = [template.row(v, completion_only=completion_only) for v in values]
    return store_of(encoder.encode([row.pieces for row in rendered]), rendered)


def sequences_of(examples: Sequence[Mapping[str, Sequence[int]]]) -> Sequences:
    """Sequences that are these very examples of `input_ids` and `labels`."""
    rows = [marked(list(e["input_ids"]), [label != IGNORED for label in e["labels"]]) for e in examples]
    store = store_of(rows)
    spans = np.stack([store.starts[:-1], store.starts[1:], np.zeros(len(rows), np.int64)], axis=1)
    return Sequences(store.tokens, store.trained, spans, len(rows))


def as_lists(sequences: Sequences) -> list[dict[str, list[int]]]:
    """The ids and labels of the sequences as plain lists."""
    return [{name: example[name].tolist() for name in ("input_ids", "labels")} for example in _each(sequences)]


def _each(sequences: Sequences) -> list[Example]:
    return [sequences[i] for i in range(len(sequences))]
