"""Remarks on labels, and on questions that have several answers."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from phi_runtime.data.labels import QuestionCounter, few_rows, label_remarks, shortened, side_remarks
from phi_runtime.data.repeats import find_repeats
from tests.phi_runtime.data.stores import marked, store_of

ROWS = [  # question, answer
    ("hot", "warm"), ("icy", "cold"), ("hot", "warm"), ("icy", "warm"), ("mild", "warm"), ("icy", "cold"), ("hot", "Warm"),
]  # fmt: skip


def test_repeated_questions_have_the_same_answer_or_contradict_each_other() -> None:
    repeats = find_repeats(store_of([marked([1, 2], [False, True])] * len(ROWS), ROWS).rows)
    assert (repeats.questions, repeats.duplicates, repeats.contradictory) == (3, 2, 2)
    assert repeats.examples == ((1, 3), (0, 6))  # by the second line
    assert find_repeats(store_of([marked([1], [True])], [("x", "y")]).rows).examples == ()


def test_the_same_questions_contradict_each_other_while_they_are_read() -> None:
    questions = QuestionCounter()
    for line, (question, answer) in enumerate(ROWS, start=1):
        questions.add(f"a:{line}", question, answer)
    assert (len(questions), questions.duplicates, questions.contradictory, questions.example) == (
        3,
        2,
        2,
        ("a:2", "a:4"),
    )


@pytest.mark.parametrize(
    ("labels", "named"),
    [
        ({"warm": 5, "cold": 5}, []),
        ({"warm": 20}, [["warm"]]),
        ({"warm": 19, "cold": 1}, [["cold"]]),
        ({"Warm": 9, "warm": 9, "very  cold": 4, "very cold": 3, "coldish": 2}, [["Warm", "warm"], ["very cold"]]),
        ({"WARM": 9, "“warm ”": 9, "'cold'": 4, "cold": 3}, [["WARM", "“warm ”"], ["'cold'", "cold"]]),
        ({"C": 9, "C++": 9, "+1": 9, "-1": 9}, []),
        ({"warm": 9, "cold": 1, "Warm": 1}, [["warm", "Warm"], ["cold", "Warm"]]),
    ],
)
def test_labels_that_teach_nothing_are_alike_or_rare_are_named(labels: dict[str, int], named: list[list[str]]) -> None:
    remarks = label_remarks(labels)
    assert len(remarks) == len(named)
    for remark, names in zip(remarks, named, strict=True):
        assert all(f"`{name}`" in remark for name in names)


def test_labels_of_one_side_only_are_named() -> None:
    labels = Counter("abc")
    assert side_remarks(labels, {"a": 3, "b": 0, "c": 1}, {"a": 1, "b": 1, "c": 0}) == [
        "only validation rows have the label `b`: the model cannot learn it"
    ]
    assert side_remarks(labels, {"a": 3, "b": 3, "c": 2}, {"a": 1, "b": 0}) == [
        "no validation row has the labels `b` and `c`: it is trained, and not measured"
    ]
    assert side_remarks(labels, labels, labels) == []
    assert side_remarks(labels, {"a": 3}, {"a": 1, "b": 1}, "test")[0].startswith("only test rows have the label `b`")


def test_a_long_label_is_cut_and_many_are_counted() -> None:
    assert shortened("a\n b " * 10_000, 10) == "a b a b a…"
    assert shortened("warm") == "warm"
    remark: Any = label_remarks({f"label {i}": 1 for i in range(9)})[0]
    assert remark.startswith("9 labels have")
    assert remark.endswith("and 4 more")


def test_few_rows_of_a_side_are_remarked() -> None:
    assert few_rows(1)[0].startswith("1 validation row:")
    assert few_rows(19, "test")[0].startswith("19 test rows:")
    assert few_rows(0) == few_rows(20) == []
