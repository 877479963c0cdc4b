"""Find validation rows whose question also occurs in the training rows, literally or in almost the same words.

Near duplicates are found by MinHash over pairs of adjacent tokens (Broder, "On the resemblance and containment of documents",
1997) and banding (Leskovec, Rajaraman and Ullman, "Mining of Massive Datasets", 3.4), then verified by their real overlap.
Pairs that most rows have, such as those of the template, do not count.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from phi_runtime.data.store import Store

NEAR_DUPLICATE = 0.7  # Jaccard overlap of token pairs of two questions that are near duplicates
_BANDS, _PER_BAND = 8, 2
_COMMON = 0.2  # a pair in more than this share of rows belongs to the template
_SAMPLED_ROWS = 2000  # rows that decide it
_BLOCK = 50_000  # rows hashed at once
_SHOWN = 20
_NONE = np.uint64(2**64 - 1)
_LAST = np.array([_NONE])

Pair = tuple[int, int]
"""Indices of a training row and a validation row in their stores."""


@dataclass(frozen=True)
class Leaks:
    """Counts of validation rows with the `same` question as a training row, or a `near` duplicate, and examples of both."""

    same: int
    near: int
    examples: tuple[Pair, ...] = ()


def find_leaks(training: Store, training_rows: np.ndarray, validation: Store, validation_rows: np.ndarray) -> Leaks:
    """Compare validation rows with training rows, each (N,) indices of rows of its store."""
    if not len(validation_rows) or not len(training_rows):
        return Leaks(0, 0)
    same = _equal(training.rows["question"][training_rows][:, 0], validation.rows["question"][validation_rows][:, 0])
    words = _equal(training.rows["words"][training_rows], validation.rows["words"][validation_rows])
    similar = _similar(training, training_rows, validation, validation_rows) | words
    near = {v: t for v, t in similar.items() if v not in same}
    pairs = [(int(training_rows[t]), int(validation_rows[v])) for v, t in [*same.items(), *near.items()]]
    return Leaks(len(same), len(near), tuple(pairs[:_SHOWN]))


def _equal(training: np.ndarray, validation: np.ndarray) -> dict[int, int]:
    """Map the index of each validation hash that occurs in `training` to its first index there."""
    order = np.argsort(training, kind="stable")
    nearest = order[np.minimum(np.searchsorted(training, validation, sorter=order), len(training) - 1)]
    return {int(i): int(nearest[i]) for i in np.flatnonzero(training[nearest] == validation)}


def _similar(
    training: Store, training_rows: np.ndarray, validation: Store, validation_rows: np.ndarray
) -> dict[int, int]:
    """Map the index of each validation row to the first training row with almost the same token pairs."""
    common = _common_pairs(training, training_rows)
    sketches = np.concatenate([sketch for _, sketch in _sketches(validation, validation_rows, common)])  # (V, bands)
    by_band: list[dict[int, list[int]]] = [{} for _ in range(_BANDS)]
    for v, band in np.argwhere(sketches != _NONE).tolist():
        by_band[band].setdefault(int(sketches[v, band]), []).append(v)
    values = [np.fromiter(band, dtype=np.uint64) for band in by_band]
    matches: dict[int, int] = {}
    for begin, block in _sketches(training, training_rows, common):
        for b in range(_BANDS):
            for i in np.flatnonzero(np.isin(block[:, b], values[b])):
                t = begin + int(i)
                for v in by_band[b][int(block[i, b])]:
                    if v in matches:
                        continue
                    overlap = _overlap(training, int(training_rows[t]), validation, int(validation_rows[v]), common)
                    if overlap >= NEAR_DUPLICATE:
                        matches[v] = t
    return matches


def _pairs(store: Store, row: int) -> np.ndarray:
    """Return hashes of the pairs of adjacent tokens of a row's question, or of all of a free text."""
    tokens, trained = store.row(row)
    if trained.all() or not trained.any():
        return _hashed(tokens)
    last = int(np.flatnonzero(trained)[-1])
    return _hashed(tokens[:last][~trained[:last]])


def _hashed(tokens: np.ndarray) -> np.ndarray:
    wide: np.ndarray = tokens.astype(np.uint64)
    mixed = wide[:-1] * np.uint64(0x9E3779B97F4A7C15) ^ wide[1:] * np.uint64(0xC2B2AE3D27D4EB4F)
    return mixed ^ (mixed >> np.uint64(29))


def _common_pairs(store: Store, chosen: np.ndarray) -> np.ndarray:
    sample = chosen[:: max(1, len(chosen) // _SAMPLED_ROWS)]
    pairs, counts = np.unique(np.concatenate([np.unique(_pairs(store, int(i))) for i in sample]), return_counts=True)
    return pairs[counts > max(2, _COMMON * len(sample))]


def _sketches(store: Store, chosen: np.ndarray, common: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Yield blocks of rows: the index of the first, and the sketches (rows, bands)."""
    generator = np.random.default_rng(0)
    factors = generator.integers(1, 2**63, size=_BANDS * _PER_BAND, dtype=np.uint64) | np.uint64(1)
    for begin in range(0, len(chosen), _BLOCK):
        rows = [_pairs(store, int(i)) for i in chosen[begin : begin + _BLOCK]]
        sizes = np.array([len(r) + 1 for r in rows])
        # Each row ends with the largest number, so that each has a minimum.
        flat = np.concatenate([part for r in rows for part in (r, _LAST)])
        hidden = np.isin(flat, common)
        starts = np.cumsum(sizes) - sizes
        bands: np.ndarray = np.zeros((len(rows), _BANDS), dtype=np.uint64)
        empty: np.ndarray = np.zeros(len(rows), dtype=bool)
        for k, factor in enumerate(factors):
            mixed = flat * factor
            mixed ^= mixed >> np.uint64(32)
            mixed[hidden] = _NONE
            mixed[starts + sizes - 1] = _NONE
            smallest = np.minimum.reduceat(mixed, starts)
            empty |= smallest == _NONE
            bands[:, k // _PER_BAND] = bands[:, k // _PER_BAND] * np.uint64(31) + smallest
        bands[empty] = _NONE
        yield begin, bands


def _overlap(one: Store, i: int, other: Store, j: int, common: np.ndarray) -> float:
    a, b = (np.setdiff1d(_pairs(store, row), common) for store, row in ((one, i), (other, j)))
    union = len(np.union1d(a, b))
    return len(np.intersect1d(a, b)) / union if union else 0.0
