"""Find rows whose questions have almost the same tokens.

Candidates are found by MinHash over pairs of adjacent tokens (Broder, "On the resemblance and containment of documents", 1997)
and banding (Leskovec, Rajaraman and Ullman, "Mining of Massive Datasets", 3.4), then verified by their real overlap. A pair that
many rows have, such as those of the template, distinguishes no rows: near duplicates agree in their own pairs as well as in all.

Shapes: N rows, P token pairs of a block of rows, K pairs of rows.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from phi_runtime.data.store import Store

NEAR_DUPLICATE = 0.7  # Jaccard overlap of token pairs of two questions that are near duplicates
NONE = np.uint64(2**64 - 1)
"""Band of a row without token pairs of its own."""
BANDS = 8
_PER_BAND = 2
_COMMON_ROWS = 20  # of the sampled rows; a token pair that more of them have is common
_SAMPLED_ROWS = 2000
_BLOCK_TOKENS = 1 << 18


def common_pairs(store: Store, rows: np.ndarray) -> np.ndarray:
    """Return the hashes of the token pairs that many of `rows`, (N,) indices, have; the sample depends on content only."""
    by_content = np.argsort(store.rows["question"][rows][:, 0], kind="stable")
    sample = rows[by_content[:_SAMPLED_ROWS]]
    counted: list[np.ndarray] = []
    for begin, end in _blocks(store, sample):
        counted.append(_distinct(*_pairs(store, sample[begin:end]))[2])
    pairs, counts = np.unique(np.concatenate(counted), return_counts=True)
    return pairs[counts > min(_COMMON_ROWS, -(-len(sample) // 2))]


def sketches(store: Store, rows: np.ndarray, common: np.ndarray) -> np.ndarray:
    """Return the bands of each of `rows`, (N, BANDS); rows that have a band in common are candidates."""
    factors = np.random.default_rng(0).integers(1, 2**63, size=BANDS * _PER_BAND, dtype=np.uint64) | np.uint64(1)
    bands: np.ndarray = np.zeros((len(rows), BANDS), dtype=np.uint64)
    for begin, end in _blocks(store, rows):
        pairs, owners = _pairs(store, rows[begin:end])
        own = _missing(pairs, common)
        pairs, owners = pairs[own], owners[own]
        filled, starts = np.unique(owners, return_index=True)
        block = bands[begin:end]
        for k, factor in enumerate(factors if len(filled) else ()):
            mixed = pairs * factor
            mixed ^= mixed >> np.uint64(32)
            block[filled, k // _PER_BAND] *= np.uint64(31)
            block[filled, k // _PER_BAND] += np.minimum.reduceat(mixed, starts)
        empty: np.ndarray = np.ones(end - begin, dtype=bool)
        empty[filled] = False
        block[empty] = NONE
    return bands


def are_near(one: Store, rows: np.ndarray, other: Store, other_rows: np.ndarray, common: np.ndarray) -> np.ndarray:
    """Return a mask (K,): row `rows[k]` of `one` and row `other_rows[k]` of `other` are near duplicates."""
    near: np.ndarray = np.zeros(len(rows), dtype=bool)
    for begin, end in _blocks(one, rows):
        keys, owners, pairs = _distinct(*_pairs(one, rows[begin:end]))
        other_keys, other_owners, other_pairs = _distinct(*_pairs(other, other_rows[begin:end]))
        shared = np.isin(keys, other_keys, assume_unique=True)
        own, other_own = _missing(pairs, common), _missing(other_pairs, common)
        in_all = _overlap(owners, other_owners, owners[shared], end - begin)
        in_own = _overlap(owners[own], other_owners[other_own], owners[shared & own], end - begin)
        near[begin:end] = (in_all >= NEAR_DUPLICATE) & (in_own >= NEAR_DUPLICATE)
    return near


def _overlap(owners: np.ndarray, other_owners: np.ndarray, shared: np.ndarray, count: int) -> np.ndarray:
    """Return the Jaccard overlap (K,) from the owner of each pair on one side, on the other, and on both."""
    one, other, both = (np.bincount(each, minlength=count) for each in (owners, other_owners, shared))
    overlap: np.ndarray = both / np.maximum(one + other - both, 1)
    return overlap


def _distinct(pairs: np.ndarray, owners: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the distinct pairs of each owner: keys that no two owners share, owners, and pairs."""
    keys, first = np.unique(_keys(pairs, owners), return_index=True)
    return keys, owners[first], pairs[first]


def _keys(pairs: np.ndarray, owners: np.ndarray) -> np.ndarray:
    mixed = (pairs ^ (owners.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15))) * np.uint64(0xBF58476D1CE4E5B9)
    return mixed ^ (mixed >> np.uint64(31))


def _missing(pairs: np.ndarray, ordered: np.ndarray) -> np.ndarray:
    """Return a mask (P,) of the pairs that are not in `ordered`."""
    if not len(ordered):
        return np.ones(len(pairs), dtype=bool)
    nearest = np.minimum(np.searchsorted(ordered, pairs), len(ordered) - 1)
    mask: np.ndarray = ordered[nearest] != pairs
    return mask


def _blocks(store: Store, rows: np.ndarray) -> Iterator[tuple[int, int]]:
    """Yield ranges of `rows` with up to `_BLOCK_TOKENS` tokens together; a longer row is a block."""
    ends = np.cumsum(store.rows["tokens"][rows], dtype=np.int64)
    begin = 0
    while begin < len(rows):
        before = int(ends[begin - 1]) if begin else 0
        end = max(begin + 1, int(np.searchsorted(ends, before + _BLOCK_TOKENS, side="right")))
        yield begin, end
        begin = end


def _pairs(store: Store, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return hashes of the pairs of adjacent tokens of the question, or of all of a free text, with the index of the row."""
    sizes = store.rows["tokens"][rows].astype(np.int64)
    owners: np.ndarray = np.repeat(np.arange(len(rows)), sizes)
    begins = np.cumsum(sizes) - sizes
    place = np.arange(len(owners)) - np.repeat(begins, sizes)
    index = np.repeat(store.starts[rows], sizes) + place
    tokens, trained = store.tokens[index], store.trained[index]
    last: np.ndarray = np.full(len(rows), -1)
    filled = sizes > 0
    if filled.any():
        last[filled] = np.maximum.reduceat(np.where(trained, place, -1), begins[filled])
    free_text = (last < 0) | (np.bincount(owners, weights=trained, minlength=len(rows)) == sizes)
    kept = free_text[owners] | (~trained & (place < last[owners]))
    tokens, owners = tokens[kept].astype(np.uint64), owners[kept]
    mixed = tokens[:-1] * np.uint64(0x9E3779B97F4A7C15) ^ tokens[1:] * np.uint64(0xC2B2AE3D27D4EB4F)
    mixed ^= mixed >> np.uint64(29)
    adjacent = owners[:-1] == owners[1:]
    return mixed[adjacent], owners[:-1][adjacent]
