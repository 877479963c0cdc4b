"""Baselines answer from the training rows alone."""

from __future__ import annotations

import pytest

from phi_runtime.evaluation.baselines import baselines

QUESTIONS = ["the cat sat", "a cat ran", "the cat slept", "a dog barked", "the dog ran"]
ANSWERS = ["cat", "cat", "cat", "dog", "dog"]


def answers(
    task: str, test: list[str], questions: list[str] = QUESTIONS, labels: list[str] = ANSWERS
) -> dict[str, list[str]]:
    return {baseline.name: baseline.answers for baseline in baselines(task, questions, labels, test)}


def test_classification_has_majority_regression_and_nearest_row() -> None:
    assert answers("classification", ["one dog here", "my cat here"]) == {
        "majority label": ["cat", "cat"],
        "logistic regression": ["dog", "cat"],
        "nearest row": ["dog", "cat"],
    }


def test_equally_frequent_labels_are_decided_by_the_alphabet_not_by_file_order() -> None:
    assert answers("classification", ["x"], ["b one", "a two"], ["b", "a"])["majority label"] == ["a"]


def test_a_single_label_has_no_regression() -> None:
    assert "logistic regression" not in answers("classification", ["x"], ["one", "two"], ["a", "a"])


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("It cost 3.5 euros. Then it rained.", "It cost 3.5 euros."),
        ("No end here", "No end here"),
        ("今天下雨。明天晴。", "今天下雨。"),
        ("Really?! Yes.", "Really?!"),
        ("", ""),
    ],
)
def test_a_summary_baseline_is_the_first_sentence(text: str, first: str) -> None:
    assert answers("summarization", [text])["first sentence"] == [first]


def test_generation_copies_the_input_and_takes_the_nearest_answer() -> None:
    assert answers("generation", ["the dog ran fast"]) == {
        "nearest row": ["dog"],
        "copy of the input": ["the dog ran fast"],
    }


def test_without_training_or_test_rows_there_is_no_baseline() -> None:
    assert baselines("classification", [], [], ["x"]) == []
    assert baselines("classification", QUESTIONS, ANSWERS, []) == []
