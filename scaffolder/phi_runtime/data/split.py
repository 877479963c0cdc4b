"""Rows that are held out: chosen by their content, evenly over the answers, the same whatever the order of the file."""

from __future__ import annotations

import numpy as np

_LABELS_SHARE = 5  # answers are labels where on average so many questions have the same


def hold_out(rows: np.ndarray, size: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Splits `rows` (N,), of store.ROW, into the places of those that are trained on and of those that are held out.

    `size` below 1 is a fraction of the questions, else a count. Rows with the same question (free text: the same text) stay on
    one side, so none that is scored has been seen; of several with the same the held-out side keeps the first. Where answers
    repeat (labels) each label gives its share. Both sides come in an order that depends on `seed` and content alone, not on the
    order of the file.
    """
    if not len(rows):
        return np.arange(0), np.arange(0)
    question = rows["question"]
    order = np.lexsort((np.arange(len(rows)), question[:, 1], _ranks(question[:, 0], seed)))
    sorted_ = question[order]
    first = np.concatenate([[True], (sorted_[1:] != sorted_[:-1]).any(axis=1)])  # of the rows of one question
    group = np.cumsum(first) - 1  # (N,), in the order of ranks
    leaders = order[first]  # (G,)
    wanted = round(size * len(leaders)) if size < 1 else min(int(size), len(leaders))
    if not wanted:
        return order, np.arange(0)
    answers = rows["answer"][leaders]
    labels = len(np.unique(answers)) <= len(leaders) / _LABELS_SHARE
    chosen = _spread(answers, wanted) if labels else np.arange(len(leaders)) < wanted
    return order[~chosen[group]], leaders[chosen]


def _spread(answers: np.ndarray, wanted: int) -> np.ndarray:
    """Of (G,) answers `wanted`, from each as many as its share, the remainders going to the largest fractions; as a mask."""
    names, which, counts = np.unique(answers, return_inverse=True, return_counts=True)
    shares = wanted * counts / len(answers)
    taken = np.floor(shares).astype(np.int64)
    by_remainder = np.lexsort((names, taken - shares))
    taken[by_remainder[: wanted - taken.sum()]] += 1
    by_answer = np.argsort(which, kind="stable")
    place = np.arange(len(answers)) - np.repeat(np.cumsum(counts) - counts, counts)  # within its answer
    chosen: np.ndarray = np.zeros(len(answers), dtype=bool)
    chosen[by_answer] = place < taken[which[by_answer]]
    return chosen


def _ranks(hashes: np.ndarray, seed: int) -> np.ndarray:
    """Numbers that shuffle (N,) hashes, other ones for each seed: splitmix64 (Steele, Lea and Flood, OOPSLA 2014)."""
    mixed = hashes + np.uint64(((seed + 1) * 0x9E3779B97F4A7C15) % 2**64)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    return mixed ^ (mixed >> np.uint64(31))
