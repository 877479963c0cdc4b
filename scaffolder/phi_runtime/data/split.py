"""Split rows into training, validation and test rows by their content, independent of the order of the file.

Shapes: N rows, G questions, U units. A unit is what stays on one side: a cluster of rows that give each other away, or all rows with
one value of `group_by`.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from phi_runtime.data.groups import are_first, places_in
from phi_runtime.data.store import TRAINED

_LABELS_SHARE = 5  # answers are labels if on average at least this many questions have the same one
_TRAINING, _VALIDATION, _TEST, _NEITHER = 0, 1, 2, 3


class Sides(NamedTuple):
    """Indices of training, validation and test rows, in an order that depends only on content and seed."""

    training: np.ndarray
    validation: np.ndarray
    test: np.ndarray


def split_rows(rows: np.ndarray, clusters: np.ndarray, sizes: tuple[float, float], seed: int) -> Sides:
    """Split rows into training, validation and test rows.

    Rows of one unit are never on two sides, and a question is on the validation or test side once. If answers repeat (labels),
    the split is stratified by answer. Units change the split only where it would divide one of them.

    Args:
        rows: Rows of a store, (N,) of `store.ROW`.
        clusters: Name of the cluster of each row, (N,).
        sizes: Number of validation and of test rows: a fraction of the questions below 1, else a count.
        seed: Seed of the order.
    """
    if not len(rows):
        return Sides(*[np.arange(0)] * 3)
    question, group = rows["question"], rows["group"]
    order = np.lexsort((np.arange(len(rows)), group, question[:, 1], _ranks(question[:, 0], seed)))
    first = are_first(question[order]) | are_first(group[order])  # of the rows of one question
    leader_of = np.cumsum(first) - 1  # (N,), in the order of ranks
    leaders = order[first]  # (G,)
    questions = _RankedQuestions.of(rows, leaders, clusters[leaders], seed)
    sides: np.ndarray = np.full(len(leaders), _TRAINING)
    for side, size in zip((_VALIDATION, _TEST), sizes, strict=True):
        free = np.flatnonzero(sides == _TRAINING)
        count = min(round(size * len(leaders)) if size < 1 else int(size), len(free))
        if count:
            sides[free[_held_back(questions.at(free), count)]] = side
    if group.any():
        _drop_repeated(sides, clusters[leaders])
    return Sides(order[sides[leader_of] == _TRAINING], leaders[sides == _VALIDATION], leaders[sides == _TEST])


def sample_evenly(rows: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Return the places (count,) of a sample of `rows`, (N,) of `store.ROW`, in their order.

    The sample depends on content and seed only. If answers repeat (labels), each has its share. Rows that are in the order of
    `split_rows` are a sample already: their first ones are returned.
    """
    if len(rows) <= count:
        return np.arange(len(rows))
    question = rows["question"]
    order = np.lexsort((np.arange(len(rows)), question[:, 1], _ranks(question[:, 0], seed)))
    if (order[1:] > order[:-1]).all():
        return np.arange(count)
    return np.sort(order[_shares(rows["answer"][order], count)])


@dataclass(frozen=True)
class _RankedQuestions:
    """Questions in the order of ranks.

    Attributes:
        answers, units: Answer and unit of each, (G,).
        ranks: Rank of its unit, (G,).
        trained: True if it must be trained, (G,).
        are_units: True if each is a unit.
    """

    answers: np.ndarray
    units: np.ndarray
    ranks: np.ndarray
    trained: np.ndarray
    are_units: bool

    @classmethod
    def of(cls, rows: np.ndarray, leaders: np.ndarray, clusters: np.ndarray, seed: int) -> _RankedQuestions:
        question, answers, groups = (rows[name][leaders] for name in ("question", "answer", "group"))
        units = np.where(groups > 0, groups, clusters)
        are_units = bool((units == question[:, 0]).all())
        return cls(answers, units, _ranks(units, seed), units == TRAINED, are_units)

    def at(self, places: np.ndarray) -> _RankedQuestions:
        answers, units, ranks, trained = (a[places] for a in (self.answers, self.units, self.ranks, self.trained))
        return _RankedQuestions(answers, units, ranks, trained, self.are_units)


def _are_labels(answers: np.ndarray) -> bool:
    return len(np.unique(answers)) <= len(answers) / _LABELS_SHARE


def _shares(answers: np.ndarray, count: int) -> np.ndarray:
    """Return a mask that picks the first `count` of (G,) questions; of labels, the first of each in its share."""
    if _are_labels(answers):
        return _stratified(answers, count)
    chosen: np.ndarray = np.arange(len(answers)) < count
    return chosen


def _held_back(questions: _RankedQuestions, count: int) -> np.ndarray:
    """Return a mask (G,) of about `count` questions for one side, with all or none of each unit.

    The next units that fit replace those that the shares would divide. If the units are so large that this gives less than half of
    `count`, the smallest one is added. If that is most of the data, or all of a label, the shares stay divided.
    """
    shares = _shares(questions.answers, count)
    if questions.are_units:
        return shares
    _, unit, sizes = np.unique(questions.units, return_inverse=True, return_counts=True)
    held = np.bincount(unit, weights=shares)
    trained: np.ndarray = np.zeros(len(sizes), dtype=bool)
    trained[unit[questions.trained]] = True
    divided = (held > 0) & (trained | (held < sizes))
    if not divided.any():
        return shares
    side = _Side(questions.answers, shares, shares & ~divided[unit])
    free = ~trained & (divided | (held == 0))
    single = free & (sizes == 1)
    several = _members(unit, questions.ranks, free & (sizes > 1))
    for stratified in (True, False):
        several = [members for members in several if not side.add(members, stratified=stratified)]
        side.add_singly(np.flatnonzero(single[unit] & ~side.chosen), stratified=stratified)
    if 2 * side.missing_count > count and several:
        smallest = min(several, key=len)
        if 2 * len(smallest) <= len(shares):
            side.missing_count = max(side.missing_count, len(smallest))
            side.add(smallest, stratified=False)
    return side.chosen if side.chosen.any() else shares


class _Side:
    """The questions of one side, while units are added to it.

    Attributes:
        chosen: A mask (G,).
        missing_count: Number of questions that the side lacks.
    """

    def __init__(self, answers: np.ndarray, shares: np.ndarray, chosen: np.ndarray) -> None:
        self.chosen = chosen
        self._label: np.ndarray = np.zeros(len(answers), dtype=np.int64)
        if _are_labels(answers):
            self._label = np.unique(answers, return_inverse=True)[1]
        labels = self._label.max() + 1
        self._spare = np.bincount(self._label[~chosen], minlength=labels) - 1  # by label; one is kept for training
        self._missing = np.bincount(self._label[shares & ~chosen], minlength=labels)
        self.missing_count = int(self._missing.sum())

    def add(self, members: list[int], *, stratified: bool) -> bool:
        """Add a unit if it fits; with `stratified`, into the shares of its labels."""
        if len(members) > self.missing_count:
            return False
        counts = Counter(self._label[members].tolist())
        room = self._missing if stratified else self._spare
        if any(n > room[label] or n > self._spare[label] for label, n in counts.items()):
            return False
        self.chosen[members] = True
        self.missing_count -= len(members)
        for label, n in counts.items():
            self._missing[label] -= n
            self._spare[label] -= n
        return True

    def add_singly(self, questions: np.ndarray, *, stratified: bool) -> None:
        """Add the first of the questions that fit."""
        label = self._label[questions]
        room = np.minimum(self._missing, self._spare) if stratified else self._spare
        fitting = np.flatnonzero(_place_of(label) < room[label])[: self.missing_count]
        self.chosen[questions[fitting]] = True
        self.missing_count -= len(fitting)
        counts = np.bincount(label[fitting], minlength=len(room))
        self._missing -= counts
        self._spare -= counts


def _members(unit: np.ndarray, ranks: np.ndarray, free: np.ndarray) -> list[list[int]]:
    """Return the questions of each free unit, units in the order of their ranks."""
    questions = np.flatnonzero(free[unit])
    order = questions[np.lexsort((questions, unit[questions], ranks[questions]))]
    begins: np.ndarray = np.flatnonzero(unit[order][1:] != unit[order][:-1]) + 1
    return [part.tolist() for part in np.split(order, begins)] if len(order) else []


def _drop_repeated(sides: np.ndarray, clusters: np.ndarray) -> None:
    """Remove questions (G,) from the validation and the test side whose cluster another side has, too.

    Values of `group_by` divide clusters.
    """
    for side, others in ((_VALIDATION, (_TRAINING,)), (_TEST, (_TRAINING, _VALIDATION))):
        elsewhere = np.unique(clusters[np.isin(sides, others)])
        sides[(sides == side) & np.isin(clusters, elsewhere)] = _NEITHER


def _stratified(answers: np.ndarray, count: int) -> np.ndarray:
    """Return a mask that picks `count` of (G,) answers in proportion to each distinct one, by largest remainders."""
    names, which, counts = np.unique(answers, return_inverse=True, return_counts=True)
    shares = count * counts / len(answers)
    taken = np.floor(shares).astype(np.int64)
    by_remainder = np.lexsort((names, taken - shares))
    taken[by_remainder[: count - taken.sum()]] += 1
    chosen: np.ndarray = _place_of(which) < taken[which]
    return chosen


def _place_of(labels: np.ndarray) -> np.ndarray:
    """Return the place of each item among those with the same label, (N,), counted from 0."""
    order = np.argsort(labels, kind="stable")
    places: np.ndarray = np.empty(len(labels), dtype=np.int64)
    places[order] = places_in(np.bincount(labels))
    return places


def _ranks(hashes: np.ndarray, seed: int) -> np.ndarray:
    """Shuffle (N,) hashes by seed with splitmix64 (Steele, Lea and Flood, OOPSLA 2014)."""
    mixed = hashes + np.uint64(((seed + 1) * 0x9E3779B97F4A7C15) % 2**64)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    return mixed ^ (mixed >> np.uint64(31))
