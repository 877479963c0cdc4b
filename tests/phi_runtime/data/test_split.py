"""The held-out rows are really held out."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest

from phi_runtime.data.split import Sides, sample_evenly, split_rows
from phi_runtime.data.store import Store
from tests.phi_runtime.data.stores import marked, store_of

Row = tuple[str, str]


def rows(count: int, labels: int = 4) -> list[Row]:
    """Questions and answers."""
    return [(f"question {i}", f"label {i % labels}") for i in range(count)]


def table(rows: Sequence[Row]) -> np.ndarray:
    return store_of([marked([1, 2], [False, True])] * len(rows), rows).rows


def train_validation_split(rows: np.ndarray, size: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Training and validation rows, where no rows but those with the same question belong together."""
    sides = split_rows(rows, rows["question"][:, 0], (size, 0), seed)
    return sides.training, sides.validation


def split(rows: Sequence[Row], size: float, seed: int = 1) -> tuple[list[Row], list[Row]]:
    training, held_out = train_validation_split(table(rows), size, seed)
    return [rows[i] for i in training], [rows[i] for i in held_out]


@pytest.mark.parametrize(("size", "count"), [(0.25, 50), (30, 30), (0.1, 20), (0, 0), (1, 1), (200, 200), (500, 200)])
def test_a_fraction_or_a_count_is_held_out_and_nothing_is_lost(size: float, count: int) -> None:
    training, held_out = train_validation_split(table(rows(200)), size, seed=1)
    assert len(held_out) == count
    assert sorted([*training, *held_out]) == list(range(200))


def test_each_label_gives_its_share() -> None:
    _, held_out = split(rows(200), 0.2)
    assert set(Counter(answer for _, answer in held_out).values()) == {10}


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("size", [1, 7, 20, 33, 99])
def test_shares_are_those_of_the_largest_remainders(size: int, seed: int) -> None:
    counts = {"many": 61, "some": 25, "few": 11, "rare": 3}
    uneven = [(f"{label} {i}", label) for label, count in counts.items() for i in range(count)]
    _, held_out = split(uneven, size, seed)
    found = Counter(answer for _, answer in held_out)
    exact = {label: size * count / 100 for label, count in counts.items()}
    # Hamilton's method: each its whole part, and one more to those with the largest fractions.
    by_fraction = sorted(exact, key=lambda label: exact[label] % 1, reverse=True)
    expected = {label: int(share) for label, share in exact.items()}
    for label in by_fraction[: size - sum(expected.values())]:
        expected[label] += 1
    assert [found[label] for label in counts] == [expected[label] for label in counts]


@pytest.mark.parametrize("labels", [4, 200])
def test_the_same_rows_in_another_order_split_alike(labels: int) -> None:
    shuffled = rows(200, labels)
    random.Random(3).shuffle(shuffled)
    assert split(shuffled, 0.2) == split(rows(200, labels), 0.2)
    assert split(shuffled, 0.2, seed=2) != split(rows(200, labels), 0.2)


def test_the_rows_that_are_held_out_stay_so_when_more_come() -> None:
    _, before = split(rows(200, labels=200), 20)
    training, after = split(rows(220, labels=220), 20)
    assert len(set(before) & set(after)) >= 15
    assert len(training) == 200


def test_a_question_that_comes_twice_is_never_on_both_sides_and_its_first_row_is_held_out() -> None:
    twice = [*rows(100), *((question, "other") for question, _ in rows(100))]
    training, held_out = split(twice, 0.3, seed=0)
    assert len(held_out) == 30
    assert len(training) == 140
    assert not {question for question, _ in training} & {question for question, _ in held_out}
    assert not any(answer == "other" for _, answer in held_out)


def test_answers_that_repeat_seldom_are_split_without_regard_to_them() -> None:
    free = [(f"q{i}", f"answer {i // 4}") for i in range(200)]
    training, held_out = split(free, 0.2, seed=0)
    assert (len(training), len(held_out)) == (160, 40)
    assert set(Counter(answer for _, answer in held_out).values()) != {1}


def test_the_order_of_both_sides_is_shuffled_by_the_seed() -> None:
    orders = [train_validation_split(table(rows(100)), size, seed)[0].tolist() for seed in (0, 1) for size in (0, 0.5)]
    assert sorted(orders[0]) == list(range(100)) != orders[0]
    assert orders[0] != orders[2]
    assert [i for i in orders[0] if i in orders[1]] == orders[1], "what is left keeps its order"


@pytest.mark.parametrize("size", [0, 0.5, 3])
def test_no_rows_and_one_row_have_sides_too(size: float) -> None:
    assert [side.tolist() for side in train_validation_split(table(rows(0)), size, 0)] == [[], []]
    training, held_out = split(rows(1), size)
    assert len(held_out) == (size == 3)
    assert len(training) + len(held_out) == 1


def test_without_duplicates_the_split_is_the_one_of_earlier_versions() -> None:
    first = [
        19,
        5,
        4,
        2,
        0,
        22,
        14,
        13,
        17,
        30,
        8,
        33,
        34,
        11,
        9,
        37,
        10,
        16,
        39,
        32,
        12,
        3,
        20,
        6,
        38,
        23,
        36,
        21,
        1,
        15,
        25,
        7,
    ]
    training, held_out = train_validation_split(table(rows(40, labels=5)), 0.2, seed=7)
    assert (training.tolist(), held_out.tolist()) == (first, [27, 35, 28, 24, 29, 31, 18, 26])
    training, held_out = train_validation_split(table(rows(40, labels=40)), 0.2, seed=7)
    free = [i for i in first if i != 19]
    assert training.tolist() == [*free[:9], 26, *free[9:]]
    assert held_out.tolist() == [27, 35, 28, 24, 29, 31, 19, 18]


def test_duplicates_that_are_on_one_side_anyway_leave_the_split_as_it_was() -> None:
    before = table(rows(40, labels=5))
    training, held_out = train_validation_split(before, 0.2, seed=7)
    clusters = before["question"][:, 0].copy()
    clusters[training[:6]] = clusters[training[3]]
    clusters[[i for i in held_out if i % 5 == 3]] = clusters[28]
    sides = split_rows(before, clusters, (0.2, 0), 7)
    assert (sides.training.tolist(), sides.validation.tolist()) == (training.tolist(), held_out.tolist())


# -- three sides --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("labels", [4, 200])
@pytest.mark.parametrize("size", [0.1, 30])
def test_a_test_side_comes_from_the_training_rows_and_the_validation_side_stays(labels: int, size: float) -> None:
    before = table(rows(200, labels))
    sides = split_rows(before, before["question"][:, 0], (0.2, size), seed=3)
    training, held_out = train_validation_split(before, 0.2, seed=3)
    assert sides.validation.tolist() == held_out.tolist()
    assert len(sides.test) == (20 if size < 1 else size)
    assert set(training) == {*sides.training, *sides.test}
    assert [i for i in training if i in sides.training] == sides.training.tolist()
    if labels == 4 and size < 1:
        assert Counter(int(i) % 4 for i in sides.test) == {0: 5, 1: 5, 2: 5, 3: 5}


def test_a_test_side_needs_no_validation_side_and_takes_no_more_than_is_left() -> None:
    before = table(rows(10))
    assert [len(side) for side in split_rows(before, before["question"][:, 0], (0, 0.2), 1)] == [8, 0, 2]
    assert [len(side) for side in split_rows(before, before["question"][:, 0], (8, 5), 1)] == [0, 8, 2]


# -- units --------------------------------------------------------------------------------------------------------------------


def grouped(groups: Sequence[str], questions: Sequence[Row]) -> Store:
    return store_of([marked([i, i + 1, i + 2], [False, False, True]) for i in range(len(groups))], questions, groups)


def names_of(sides: Sides, groups: Sequence[str]) -> list[set[str]]:
    return [{groups[i] for i in side} for side in sides]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("answers", [2, 60])
def test_all_rows_of_a_group_are_on_one_side(seed: int, answers: int) -> None:
    speakers = [f"speaker {i % 12}" for i in range(60)]
    store = grouped(speakers, [(f"question {i}", f"answer {i // 12 % answers}") for i in range(60)])
    sides = split_rows(store.rows, store.clusters, (0.25, 10), seed)
    assert [len(side) for side in sides] == [35, 15, 10]
    training, validation, test = names_of(sides, speakers)
    assert not training & validation
    assert not training & test
    assert not validation & test


def test_a_question_that_several_groups_have_is_measured_only_where_it_is_not_trained() -> None:
    speakers = [f"speaker {i // 4}" for i in range(40)]
    store = grouped(speakers, [("Hi" if i % 4 == 0 else f"question {i}", "answer") for i in range(40)])
    sides = split_rows(store.rows, store.clusters, (0.2, 0), seed=0)
    training, validation, _ = names_of(sides, speakers)
    assert len(validation) == 2
    assert not training & validation
    assert len(sides.validation) == 6
    assert all(i % 4 for i in sides.validation)


def test_rows_without_a_group_are_units_of_their_own() -> None:
    speakers = ["one", "one", "one", "", " ", *[""] * 15]
    store = grouped(speakers, rows(20, labels=20))
    sides = [split_rows(store.rows, store.clusters, (0.4, 0), seed) for seed in range(10)]
    assert all(len({int(i) in s.validation for i in range(3)}) == 1 for s in sides)
    assert {len(s.validation) for s in sides} == {8}


def test_a_unit_of_all_rows_of_a_label_is_trained() -> None:
    store = grouped(
        ["a"] * 10 + [""] * 40, [(f"question {i}", "rare" if i < 10 else f"label {i % 2}") for i in range(50)]
    )
    for seed in range(5):
        sides = split_rows(store.rows, store.clusters, (0.2, 0), seed)
        assert set(range(10)) <= set(sides.training.tolist())
        assert len(sides.validation) == 10


def test_units_larger_than_the_side_make_it_larger_rather_than_empty() -> None:
    documents = [f"document {i % 4}" for i in range(80)]
    store = grouped(documents, rows(80, labels=80))
    sides = split_rows(store.rows, store.clusters, (0.1, 0), seed=0)
    assert [len(side) for side in sides] == [60, 20, 0]


# -- samples ------------------------------------------------------------------------------------------------------------------


def test_a_sample_of_a_file_that_is_sorted_by_label_has_each_label_in_its_share() -> None:
    by_label = [(f"question {i}", "common" if i < 900 else "rare") for i in range(1000)]
    places = sample_evenly(table(by_label), 100, seed=0)
    assert Counter(by_label[i][1] for i in places) == {"common": 90, "rare": 10}
    assert places.tolist() == sorted(places)
    reverse = sample_evenly(table(by_label[::-1]), 100, seed=0)
    assert {999 - i for i in reverse} == set(places.tolist())
    assert sample_evenly(table(by_label), 100, seed=1).tolist() != places.tolist()


def test_a_sample_of_free_answers_is_spread_over_the_file() -> None:
    places = sample_evenly(table(rows(1000, labels=1000)), 100, seed=0)
    assert len(set(places)) == 100
    assert 35 < (places < 500).sum() < 65


def test_a_sample_of_a_side_is_its_first_rows_since_the_side_is_shuffled() -> None:
    before = table(rows(200))
    _, held_out = train_validation_split(before, 0.5, seed=0)
    assert sample_evenly(before[held_out], 30, seed=0).tolist() == list(range(30))
    assert sample_evenly(before, 500, seed=0).tolist() == list(range(200))
