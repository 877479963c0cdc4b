"""Held-out rows that training has as good as seen: the same question, or one in almost the same words.

Near duplicates are found by MinHash over pairs of neighbouring tokens (Broder, "On the resemblance and containment of documents",
1997) and banding (Leskovec, Rajaraman and Ullman, "Mining of Massive Datasets", 3.4), then compared by their real overlap. Pairs
that most rows have, as those of the template, do not count.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from phi_runtime.data.store import Store

ALIKE = 0.7  # overlap (Jaccard) of token pairs from which on two questions are near duplicates
_BANDS, _PER_BAND = 8, 2
_COMMON = 0.2  # share of rows from which on a pair belongs to the template
_LOOKED_AT = 2000  # rows by which that is told
_BLOCK = 50_000  # rows that are hashed at once
_SHOWN = 20
_NONE = np.uint64(2**64 - 1)
_LAST = np.array([_NONE])

Pair = tuple[int, int]
"""A training row and a held-out row, by their places in their stores."""


@dataclass(frozen=True)
class Leaks:
    """How many held-out rows have the `same` question as a training row, or one that is `near`; some of both, by their places."""

    same: int
    near: int
    examples: tuple[Pair, ...] = ()


def leaks(training: Store, trained_on: np.ndarray, held: Store, held_out: np.ndarray) -> Leaks:
    """What the rows `held_out` of `held` share with the rows `trained_on` of `training`."""
    if not len(held_out) or not len(trained_on):
        return Leaks(0, 0)
    same = _shared(training.rows["question"][trained_on][:, 0], held.rows["question"][held_out][:, 0])
    words = _shared(training.rows["words"][trained_on], held.rows["words"][held_out])
    alike = _alike(training, trained_on, held, held_out) | words
    near = {h: t for h, t in alike.items() if h not in same}
    pairs = [(int(trained_on[t]), int(held_out[h])) for h, t in [*same.items(), *near.items()]]
    return Leaks(len(same), len(near), tuple(pairs[:_SHOWN]))


def _shared(ours: np.ndarray, theirs: np.ndarray) -> dict[int, int]:
    """Of each of `theirs` that stands among `ours`, its place and the place there."""
    order = np.argsort(ours, kind="stable")
    found = order[np.minimum(np.searchsorted(ours, theirs, sorter=order), len(ours) - 1)]
    return {int(i): int(found[i]) for i in np.flatnonzero(ours[found] == theirs)}


def _alike(training: Store, trained_on: np.ndarray, held: Store, held_out: np.ndarray) -> dict[int, int]:
    """Held-out rows by place, each with the first training row whose token pairs are almost the same."""
    common = _common_pairs(training, trained_on)
    theirs = np.concatenate([sketch for _, sketch in _sketches(held, held_out, common)])  # (H, bands)
    by_band: list[dict[int, list[int]]] = [{} for _ in range(_BANDS)]
    for h, band in np.argwhere(theirs != _NONE).tolist():
        by_band[band].setdefault(int(theirs[h, band]), []).append(h)
    wanted = [np.fromiter(band, dtype=np.uint64) for band in by_band]
    found: dict[int, int] = {}
    for begin, ours in _sketches(training, trained_on, common):
        for b in range(_BANDS):
            for i in np.flatnonzero(np.isin(ours[:, b], wanted[b])):
                t = begin + int(i)
                for h in by_band[b][int(ours[i, b])]:
                    row, other = int(trained_on[t]), int(held_out[h])
                    if h not in found and _overlap(training, row, held, other, common) >= ALIKE:
                        found[h] = t
    return found


def _pairs(store: Store, row: int) -> np.ndarray:
    """Hashes of the pairs of neighbouring tokens of what a row asks; of free text, of all of it."""
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
    some = chosen[:: max(1, len(chosen) // _LOOKED_AT)]
    pairs, counts = np.unique(np.concatenate([np.unique(_pairs(store, int(i))) for i in some]), return_counts=True)
    return pairs[counts > max(2, _COMMON * len(some))]


def _sketches(store: Store, chosen: np.ndarray, common: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Blocks of rows: the place of the first, and of each row one number for each band, (rows, bands)."""
    generator = np.random.default_rng(0)
    factors = generator.integers(1, 2**63, size=_BANDS * _PER_BAND, dtype=np.uint64) | np.uint64(1)
    for begin in range(0, len(chosen), _BLOCK):
        rows = [_pairs(store, int(i)) for i in chosen[begin : begin + _BLOCK]]
        sizes = np.array([len(r) + 1 for r in rows])
        # Each row ends in one number that is the largest, so that none is without a smallest.
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
