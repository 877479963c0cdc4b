"""Split rows into training and validation by their content: stratified by answer, independent of the order of the file."""

from __future__ import annotations

import numpy as np

_LABELS_SHARE = 5  # answers are labels if on average at least this many questions have the same one


def train_validation_split(rows: np.ndarray, size: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Split rows into training and validation rows.

    Rows with the same question (or the same free text) are never on both sides; the validation side keeps the first of
    them. If answers repeat (labels), the split is stratified by answer.

    Args:
        rows: Rows of a store, (N,) of `store.ROW`.
        size: Fraction of the questions below 1, else a count.
        seed: Seed of the order.

    Returns:
        Indices of the training rows and of the validation rows, both in an order that depends only on content and seed.
    """
    if not len(rows):
        return np.arange(0), np.arange(0)
    question = rows["question"]
    order = np.lexsort((np.arange(len(rows)), question[:, 1], _ranks(question[:, 0], seed)))
    sorted_ = question[order]
    first = np.concatenate([[True], (sorted_[1:] != sorted_[:-1]).any(axis=1)])  # of the rows of one question
    group = np.cumsum(first) - 1  # (N,), in the order of ranks
    leaders = order[first]  # (G,)
    count = round(size * len(leaders)) if size < 1 else min(int(size), len(leaders))
    if not count:
        return order, np.arange(0)
    answers = rows["answer"][leaders]
    labels = len(np.unique(answers)) <= len(leaders) / _LABELS_SHARE
    chosen = _stratified(answers, count) if labels else np.arange(len(leaders)) < count
    return order[~chosen[group]], leaders[chosen]


def _stratified(answers: np.ndarray, count: int) -> np.ndarray:
    """Return a mask that picks `count` of (G,) answers in proportion to each distinct one, by largest remainders."""
    names, which, counts = np.unique(answers, return_inverse=True, return_counts=True)
    shares = count * counts / len(answers)
    taken = np.floor(shares).astype(np.int64)
    by_remainder = np.lexsort((names, taken - shares))
    taken[by_remainder[: count - taken.sum()]] += 1
    by_answer = np.argsort(which, kind="stable")
    place = np.arange(len(answers)) - np.repeat(np.cumsum(counts) - counts, counts)  # within its answer
    chosen: np.ndarray = np.zeros(len(answers), dtype=bool)
    chosen[by_answer] = place < taken[which[by_answer]]
    return chosen


def _ranks(hashes: np.ndarray, seed: int) -> np.ndarray:
    """Shuffle (N,) hashes by seed with splitmix64 (Steele, Lea and Flood, OOPSLA 2014)."""
    mixed = hashes + np.uint64(((seed + 1) * 0x9E3779B97F4A7C15) % 2**64)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    return mixed ^ (mixed >> np.uint64(31))
