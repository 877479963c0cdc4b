"""The held-out rows are really held out."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from phi_runtime.data.rows import Row
from phi_runtime.data.split import hold_out
from phi_runtime.data.template import PromptTemplate

TEMPLATE = PromptTemplate.from_text("{q} {a}")


def rows(count: int, labels: int = 4) -> list[Row]:
    return [Row({"q": f"question {i}", "a": f"label {i % labels}"}, i + 1) for i in range(count)]


@pytest.mark.parametrize(("size", "count"), [(0.25, 50), (30, 30), (0.1, 20), (0, 0)])
def test_a_fraction_or_a_count_is_held_out_and_nothing_is_lost(size: float, count: int) -> None:
    training, held_out = hold_out(rows(200), TEMPLATE, size, seed=1)
    assert len(held_out) == count
    assert {r.line for r in training} | {r.line for r in held_out} == set(range(1, 201))
    assert not {r.line for r in training} & {r.line for r in held_out}


def test_each_label_gives_its_share() -> None:
    _, held_out = hold_out(rows(200), TEMPLATE, 0.2, seed=1)
    assert set(Counter(r.values["a"] for r in held_out).values()) == {10}


def test_the_same_rows_in_another_order_split_alike() -> None:
    shuffled = rows(200)
    random.Random(3).shuffle(shuffled)
    lines = [[r.line for r in side] for side in hold_out(rows(200), TEMPLATE, 0.2, seed=1)]
    assert [[r.line for r in side] for side in hold_out(shuffled, TEMPLATE, 0.2, seed=1)] == lines
    assert [[r.line for r in side] for side in hold_out(shuffled, TEMPLATE, 0.2, seed=2)] != lines


def test_a_prompt_that_comes_twice_is_never_on_both_sides() -> None:
    twice = rows(100) + rows(100)
    training, held_out = hold_out(twice, TEMPLATE, 0.3, seed=0)
    assert len(held_out) == 30
    assert not {r.values["q"] for r in training} & {r.values["q"] for r in held_out}


def test_free_text_is_split_by_the_text_itself() -> None:
    texts = [Row({"text": f"text {i % 40}"}, i) for i in range(50)]
    training, held_out = hold_out(texts, PromptTemplate.from_text("Story: {text}"), 0.25, seed=0)
    assert len(held_out) == 10
    assert not {r.values["text"] for r in training} & {r.values["text"] for r in held_out}


def test_free_answers_are_split_without_regard_to_them() -> None:
    free = [Row({"q": f"q{i}", "a": f"answer {i}"}, i) for i in range(50)]
    training, held_out = hold_out(free, TEMPLATE, 0.2, seed=0)
    assert (len(training), len(held_out)) == (40, 10)
