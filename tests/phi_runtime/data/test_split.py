"""The held-out rows are really held out."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest

from phi_runtime.data.split import train_validation_split
from tests.phi_runtime.data.stores import marked, store_of

Row = tuple[str, str]


def rows(count: int, labels: int = 4) -> list[Row]:
    """Questions and answers."""
    return [(f"question {i}", f"label {i % labels}") for i in range(count)]


def table(rows: Sequence[Row]) -> np.ndarray:
    return store_of([marked([1, 2], [False, True])] * len(rows), rows).rows


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
