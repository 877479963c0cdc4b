"""Find validation and test rows that training gives away: their question is trained too, literally or in almost the same words."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from phi_runtime.data.groups import places_in
from phi_runtime.data.near import BANDS, NONE, are_near, common_pairs, sketch
from phi_runtime.data.store import Store

_SHOWN = 20
_TRIES = 16  # training rows that a validation row is compared with for each band

Pair = tuple[int, int]
"""Indices of a training row and a validation row in their stores."""


@dataclass(frozen=True)
class Leaks:
    """Counts of validation rows that training gives away, and examples.

    Attributes:
        same: Rows whose question is one of a training row, or of an earlier turn of a training conversation.
        near: Other rows with a near duplicate.
        begun: Other conversations that begin like a training conversation, up to an answer.
        examples: Pairs of all kinds.
        repeated: Positions in the validation rows of the rows counted by `same` and `near`.
    """

    same: int
    near: int
    examples: tuple[Pair, ...] = ()
    begun: int = 0
    repeated: frozenset[int] = field(default=frozenset(), compare=False)


def find_leaks(training: Store, training_rows: np.ndarray, validation: Store, validation_rows: np.ndarray) -> Leaks:
    """Compare validation rows with training rows, each (N,) indices of rows of its store."""
    if not len(validation_rows) or not len(training_rows):
        return Leaks(0, 0)
    trained, owners = _questions(training, training_rows)
    last = validation.rows["question"][validation_rows][:, 0]
    same = {v: int(owners[t]) for v, t in _equal(trained, last).items()}
    words = _equal(training.rows["words"][training_rows], validation.rows["words"][validation_rows])
    similar = _similar(training, training_rows, validation, validation_rows) | words
    near = {v: t for v, t in similar.items() if v not in same}
    turns, conversations = _questions(validation, validation_rows)
    begun = {int(conversations[q]): int(owners[t]) for q, t in _equal(trained, turns).items()}
    begun = {v: t for v, t in begun.items() if v not in same and v not in near}
    pairs = [
        (int(training_rows[t]), int(validation_rows[v])) for v, t in [*same.items(), *near.items(), *begun.items()]
    ]
    return Leaks(len(same), len(near), tuple(pairs[:_SHOWN]), len(begun), frozenset({*same, *near}))


def _questions(store: Store, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the hashes of all questions of `rows`, the last of each first, and the indices of their rows in `rows`."""
    counts = store.rows["turns"][rows].astype(np.int64)
    owners: np.ndarray = np.repeat(np.arange(len(rows)), counts)
    earlier = store.turns[np.repeat(store.turn_starts[rows], counts) + places_in(counts)]
    last = store.rows["question"][rows][:, 0]
    return np.concatenate([last, earlier]), np.concatenate([np.arange(len(rows)), owners])


def _equal(training: np.ndarray, validation: np.ndarray) -> dict[int, int]:
    """Map the index of each validation hash that occurs in `training` to its first index there."""
    order = np.argsort(training, kind="stable")
    nearest = order[np.minimum(np.searchsorted(training, validation, sorter=order), len(training) - 1)]
    return {int(i): int(nearest[i]) for i in np.flatnonzero(training[nearest] == validation)}


def _similar(
    training: Store, training_rows: np.ndarray, validation: Store, validation_rows: np.ndarray
) -> dict[int, int]:
    """Map the index of each validation row to the first training row with almost the same token pairs."""
    _, first = np.unique(training.rows["question"][training_rows][:, 0], return_index=True)
    questions = np.sort(first)  # each question once
    common = common_pairs(training, training_rows[questions])
    trained = sketch(training, training_rows[questions], common)
    validated = sketch(validation, validation_rows, common)
    candidates = [_candidates(trained.bands[:, b], validated.bands[:, b]) for b in range(BANDS)]
    t, v = np.unique(np.concatenate(candidates), axis=0).T  # (K,) each, ordered by training row
    may_be_near = trained.may_be_near(t, validated, v)
    t, v = questions[t[may_be_near]], v[may_be_near]
    near = are_near(training, training_rows[t], validation, validation_rows[v], common)
    rows, firsts = np.unique(v[near], return_index=True)
    return dict(zip(rows.tolist(), t[near][firsts].tolist(), strict=True))


def _candidates(trained: np.ndarray, validated: np.ndarray) -> np.ndarray:
    """Return pairs of a training row and a validation row with the same band, (K, 2)."""
    order = np.argsort(trained, kind="stable")
    begin, end = (np.searchsorted(trained, validated, side=side, sorter=order) for side in ("left", "right"))
    counts = np.where(validated == NONE, 0, np.minimum(end - begin, _TRIES))
    rows: np.ndarray = np.repeat(np.arange(len(validated)), counts)
    return np.stack([order[np.repeat(begin, counts) + places_in(counts)], rows], axis=1)
