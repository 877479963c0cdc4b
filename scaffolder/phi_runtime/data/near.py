"""Find rows whose questions have almost the same tokens.

Candidates are found by MinHash over pairs of adjacent tokens (Broder, "On the resemblance and containment of documents", 1997)
and banding (Leskovec, Rajaraman and Ullman, "Mining of Massive Datasets", 3.4), then verified by their real overlap. A pair that
many rows have, such as those of the template, distinguishes no rows: near duplicates agree in their own pairs as well as in all.

Shapes: N rows, P token pairs of a block of rows, K pairs of rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from phi_runtime.data.groups import places_in
from phi_runtime.data.store import Store
from phi_runtime.hardware.device import usable_cores

NEAR_DUPLICATE = 0.7  # Jaccard overlap of token pairs of two questions that are near duplicates
NONE = np.uint32(2**32 - 1)
"""Band of a row without token pairs of its own."""
BANDS, MARKS = 8, 8
_PER_BAND = 2
# Of candidates at least; of near duplicates, half of the bands and 70 % of the marks are equal.
_EQUAL_BANDS, _EQUAL_MARKS = 2, 3
_COMMON_ROWS = 20  # of the sampled rows; a token pair that more of them have is common
_SAMPLED_ROWS = 2000
_BLOCK_TOKENS, _BLOCK_PAIRS = 1 << 18, 1 << 16
_PREFIXES, _SHIFT = 1 << 16, np.uint64(48)  # of hashes of 64 bits
_THREADS = 4  # each needs 40 MB for a block
_NEARBY_TOKENS, _SCATTERED_ROWS = 1 << 21, 16  # each row from elsewhere in a file maps up to 1 MB around it


class CommonPairs:
    """Hashes of token pairs that many rows have."""

    def __init__(self, pairs: np.ndarray) -> None:
        """Create from distinct hashes in order, (C,)."""
        counts = np.bincount((pairs >> _SHIFT).astype(np.int64), minlength=_PREFIXES)
        self.starts = (np.cumsum(counts) - counts).astype(np.int32)  # of the pairs with one prefix
        self.most = int(counts.max())
        self.pairs = np.concatenate([pairs, np.repeat(pairs[-1:], self.most)])  # so that reading on is always possible

    def missing(self, pairs: np.ndarray) -> np.ndarray:
        """Return a mask (P,) of the `pairs` that are none of them."""
        mask: np.ndarray = np.ones(len(pairs), dtype=bool)
        at = self.starts[(pairs >> _SHIFT).astype(np.intp)]
        for i in range(self.most):  # a fourth of the time of a binary search
            mask &= self.pairs[at + i] != pairs
        return mask


def common_pairs(store: Store, rows: np.ndarray) -> CommonPairs:
    """Return the token pairs that many of `rows`, (N,) indices, have; the sample depends on content only."""
    by_content = np.argsort(store.rows["question"][rows][:, 0], kind="stable")
    sample = rows[by_content[:_SAMPLED_ROWS]]
    counted: list[np.ndarray] = []
    for begin, end in _blocks(store, sample):
        counted.append(_distinct(*_pairs(store, sample[begin:end]))[2])
    pairs, counts = np.unique(np.concatenate(counted), return_counts=True)
    return CommonPairs(pairs[counts > min(_COMMON_ROWS, -(-len(sample) // 2))])


class Sketches(NamedTuple):
    """Sketches of rows, whose pairs of rows are candidates if a band is equal and `may_be_near` agrees.

    Attributes:
        bands: Hashes of each row's own token pairs, (N, BANDS).
        marks: Hashes of all of its token pairs, (N, MARKS).
    """

    bands: np.ndarray
    marks: np.ndarray

    def may_be_near(self, rows: np.ndarray, other: Sketches, other_rows: np.ndarray) -> np.ndarray:
        """Return a mask (K,), false for pairs of rows that are hardly near duplicates."""
        mask: np.ndarray = np.zeros(len(rows), dtype=bool)
        for begin in range(0, len(rows), _BLOCK_PAIRS):
            one, two = (each[begin : begin + _BLOCK_PAIRS] for each in (rows, other_rows))
            marks = np.flatnonzero((self.marks[one] == other.marks[two]).sum(axis=1) >= _EQUAL_MARKS)
            bands = self.bands[one[marks]] == other.bands[two[marks]]
            mask[begin + marks] = bands.sum(axis=1) >= _EQUAL_BANDS
        return mask


def sketch(store: Store, rows: np.ndarray, common: CommonPairs) -> Sketches:
    """Return the sketches of `rows`, (N,) indices."""
    draws = np.random.default_rng(0).integers(1, 2**63, size=BANDS * _PER_BAND + MARKS, dtype=np.uint64)
    factors = draws | np.uint64(1)
    bands: np.ndarray = np.full((len(rows), BANDS), NONE)
    marks: np.ndarray = np.zeros((len(rows), MARKS), dtype=np.uint32)
    in_file = np.argsort(rows, kind="stable")

    def sketch_block(begin: int, end: int) -> None:
        block = in_file[begin:end]
        pairs, owners = _pairs(store, rows[block])
        for k, (filled, smallest) in enumerate(_smallest(pairs, owners, factors[-MARKS:])):
            marks[block[filled], k] = smallest
        own = common.missing(pairs)
        for k, (filled, smallest) in enumerate(_smallest(pairs[own], owners[own], factors[:-MARKS])):
            band = bands[:, k // _PER_BAND]
            band[block[filled]] = smallest + (band[block[filled]] * np.uint32(31) if k % _PER_BAND else np.uint32(0))

    _in_threads(sketch_block, _blocks(store, rows[in_file]))
    return Sketches(bands, marks)


def _smallest(pairs: np.ndarray, owners: np.ndarray, factors: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the owners, and the smallest hash of the pairs of each, for every factor."""
    if not len(pairs):
        return
    starts = np.flatnonzero(np.diff(owners, prepend=-1))  # owners are in order
    filled = owners[starts]
    for factor in factors:
        mixed = pairs * factor
        mixed ^= mixed >> np.uint64(32)
        yield filled, (np.minimum.reduceat(mixed, starts) >> np.uint64(32)).astype(np.uint32)


def are_near(one: Store, rows: np.ndarray, other: Store, other_rows: np.ndarray, common: CommonPairs) -> np.ndarray:
    """Return a mask (K,): row `rows[k]` of `one` and row `other_rows[k]` of `other` are near duplicates."""
    near: np.ndarray = np.zeros(len(rows), dtype=bool)

    def compare_block(begin: int, end: int) -> None:
        keys, owners, pairs = _distinct(*_pairs(one, rows[begin:end]))
        other_keys, other_owners, other_pairs = _distinct(*_pairs(other, other_rows[begin:end]))
        shared = np.isin(keys, other_keys, assume_unique=True)
        own, other_own = common.missing(pairs), common.missing(other_pairs)
        in_all = _overlap(owners, other_owners, owners[shared], end - begin)
        in_own = _overlap(owners[own], other_owners[other_own], owners[shared & own], end - begin)
        near[begin:end] = (in_all >= NEAR_DUPLICATE) & (in_own >= NEAR_DUPLICATE)

    _in_threads(compare_block, _blocks(one, rows))
    return near


def _in_threads(work: Callable[[int, int], None], blocks: Iterable[tuple[int, int]]) -> None:
    """Call `work` for each block in threads: numpy releases Python's lock, and blocks do not share rows."""
    with ThreadPoolExecutor(min(usable_cores(), _THREADS)) as pool:
        for _ in pool.map(lambda block: work(*block), blocks):
            pass


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
    """Return hashes of the pairs of adjacent tokens of the question, or of all of a free text, with the index of the row.

    The first `_BLOCK_TOKENS` of a row count.
    """
    sizes = np.minimum(store.rows["tokens"][rows].astype(np.int64), _BLOCK_TOKENS)
    owners: np.ndarray = np.repeat(np.arange(len(rows)), sizes)
    begins, place = np.cumsum(sizes) - sizes, places_in(sizes)
    begin, end = (int(store.starts[rows[0]]), int(store.starts[rows[-1]] + sizes[-1])) if len(rows) else (0, 0)
    if end - begin == len(owners) and (np.diff(rows) == 1).all():
        tokens, trained = store.tokens[begin:end].copy(), store.trained[begin:end].copy()
        store.release()
    else:
        tokens, trained = _scattered_tokens(store, np.repeat(store.starts[rows], sizes) + place, begins)
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


def _scattered_tokens(store: Store, index: np.ndarray, begins: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the tokens and the mask at `index`, in which rows begin at `begins`, and keep no page of the files in memory."""
    tokens: np.ndarray = np.empty(len(index), dtype=store.tokens.dtype)
    trained: np.ndarray = np.empty(len(index), dtype=bool)
    nearby = not len(index) or index.max() - index.min() < _NEARBY_TOKENS
    bounds = [0, len(index)] if nearby else [*begins[::_SCATTERED_ROWS].tolist(), len(index)]
    for begin, end in pairwise(bounds):
        np.take(store.tokens, index[begin:end], out=tokens[begin:end])
        np.take(store.trained, index[begin:end], out=trained[begin:end])
        store.release()
    return tokens, trained
