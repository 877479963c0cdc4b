from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from phi_runtime.evaluation.intervals import wilson
from phi_runtime.evaluation.row_results import RowResult
from phi_runtime.report.row_views import (
    RowComparison,
    confidence,
    confusion,
    errors,
    read_comparison,
    samples,
    slice_models,
    slices,
)
from tests.phi_runtime.report.cases import evaluation_of, free_text, rows_of


def comparison_of(task: str, rows: list[RowResult]) -> RowComparison:
    comparison = read_comparison(evaluation_of(task, rows), rows)
    assert comparison is not None
    return comparison


TONES = ["joy", "joy", "fear", "fear"]
ANSWERS = {
    "majority label": ["joy", "joy", "joy", "joy"],
    "base": ["?", "?", "?", "?"],
    "adapter": ["joy", "fear", "fear", "joy"],
    "onnx-int4": ["fear", "joy", "fear", "joy"],
}


def test_errors_of_a_classification() -> None:
    found = errors(comparison_of("classification", rows_of("classification", ANSWERS, TONES)))
    assert [(part.title, part.rows) for part in found] == [
        ("Lost by onnx-int4", [0]),
        ("Wrong in all trained models", [3]),
        ("Most confident errors of onnx-int4", [0, 3]),
    ]


def test_the_surest_error_is_first() -> None:
    rows = rows_of("classification", ANSWERS, TONES)
    object.__setattr__(rows[3].models["onnx-int4"], "loss", 9.0)
    assert errors(comparison_of("classification", rows))[-1].rows == [3, 0]


def test_errors_of_texts_are_the_largest_drops_and_the_lowest_scores() -> None:
    references = ["a b c d"] * 8
    answers = {"adapter": references, "onnx-int4": ["a b c d"] * 6 + ["a b", "x"]}
    found = errors(comparison_of("question-answering", rows_of("question-answering", answers, references)))
    assert [(part.title, part.rows) for part in found] == [
        ("Lost by onnx-int4", [7, 6]),
        ("Lowest scores of onnx-int4", [7, 6]),
    ]


def test_rounding_errors_of_free_text_are_no_errors() -> None:
    rows = free_text(
        {"base": [30.0] * 8, "adapter": [20.0 + i for i in range(8)], "onnx-int4": [20.01 + i for i in range(8)]}
    )
    found = errors(comparison_of("generation", rows))
    assert [part.title for part in found][-1] == "Least likely rows of onnx-int4"
    assert found[-1].rows == [7, 6]


def test_a_model_without_errors_has_no_list() -> None:
    answers = {"base": ["?"] * 4, "adapter": TONES, "onnx-int4": TONES}
    assert errors(comparison_of("classification", rows_of("classification", answers, TONES))) == []


def test_slices_have_their_rows_and_intervals() -> None:
    files = ["a.jsonl", "b.jsonl", "b.jsonl", "b.jsonl"]
    comparison = comparison_of("classification", rows_of("classification", ANSWERS, TONES, files=files))
    parts = slices(comparison)
    assert list(parts) == ["expected answer", "file"]
    joy, fear = sorted(parts["expected answer"], key=lambda part: part.name != "joy")
    assert (joy.name, joy.rows, fear.rows) == ("joy", 2, 2)
    assert joy.results["adapter"] == (0.5, wilson(1, 2))
    assert fear.results["majority label"] == (0.0, wilson(0, 2))
    assert [(part.name, part.rows, part.is_small) for part in parts["file"]] == [
        ("b.jsonl", 3, True),
        ("a.jsonl", 1, True),
    ]
    assert slice_models(comparison) == ["majority label", "adapter", "onnx-int4"]


def test_of_many_slices_the_largest_are_returned_with_their_number() -> None:
    references = [f"label {i}" for i in range(40)] + ["label 39"]
    comparison = comparison_of("classification", rows_of("classification", {"adapter": references}, references))
    parts = slices(comparison)["expected answer"]
    assert (len(parts), parts[0].name, parts[0].slices) == (30, "label 39", 40)


def test_slices_of_free_text_have_perplexities() -> None:
    rows = free_text({"adapter": [10.0, 10.0, 20.0, 20.0]})
    marked = [replace(row, file=f"{row.line > 2}.txt") for row in rows]
    parts = {part.name: part for part in slices(comparison_of("generation", marked))["file"]}
    assert parts["False.txt"].results["adapter"] == (pytest.approx(math.e), None)
    assert parts["True.txt"].results["adapter"][0] == pytest.approx(math.e**2)


def test_quarters_of_length_have_as_many_rows() -> None:
    prompts = ["x" * length for length in range(1, 41)]
    answers = {"base": ["?"] * 40, "adapter": ["joy"] * 40}
    comparison = comparison_of("classification", rows_of("classification", answers, ["joy"] * 40, prompts))
    assert [(part.name, part.rows) for part in slices(comparison)["length"]] == [
        ("quarter 1: 1–10 characters", 10),
        ("quarter 2: 11–20 characters", 10),
        ("quarter 3: 21–30 characters", 10),
        ("quarter 4: 31–40 characters", 10),
    ]


def test_rows_with_groups_have_slices_of_them() -> None:
    rows = rows_of("classification", ANSWERS, TONES)
    grouped = [replace(row, group=group) for row, group in zip(rows, "aabb", strict=True)]
    assert [(part.name, part.rows) for part in slices(comparison_of("classification", grouped))["group"]] == [
        ("a", 2),
        ("b", 2),
    ]


def test_rows_that_are_also_in_training_are_a_slice() -> None:
    rows = rows_of("classification", ANSWERS, TONES)
    marked = [replace(row, near_duplicate=i == 2) for i, row in enumerate(rows)]
    parts = slices(comparison_of("classification", marked))["near duplicate"]
    assert [part.rows for part in parts] == [3, 1]
    assert parts[1].results["adapter"][0] == 1.0
    assert "near duplicate" not in slices(comparison_of("classification", rows))


def test_samples_have_each_label() -> None:
    references = ["joy"] * 90 + ["fear"] * 5 + ["calm"] * 5
    rows = rows_of("classification", {"adapter": references}, references)
    assert samples(comparison_of("classification", rows)) == [0, 1, 2, 3, 90, 91, 92, 93, 95, 96, 97, 98]


@pytest.mark.parametrize(("count", "expected"), [(3, [0, 1, 2]), (120, list(range(0, 120, 10)))])
def test_samples_of_texts_are_evenly_spaced(count: int, expected: list[int]) -> None:
    references = ["a"] * count
    rows = rows_of("generation", {"adapter": references}, references)
    assert samples(comparison_of("generation", rows)) == expected


def test_a_confusion_matrix_counts_answers_that_are_no_label() -> None:
    rows = rows_of("classification", {"adapter": ["joy", "fear", "fear", "Joy!"]}, TONES)
    matrix = confusion(rows, "adapter")
    assert matrix.expected == ["fear", "joy"]
    assert matrix.answers == ["fear", "joy", "no label"]
    assert matrix.counts == [[1, 0, 1], [1, 1, 0]]


def test_rare_labels_are_counted_together() -> None:
    references = [f"{i:02}" for i in range(30)] + [f"{i:02}" for i in range(18)]
    matrix = confusion(rows_of("classification", {"adapter": ["29"] * 48}, references), "adapter")
    assert matrix.expected == [*(f"{i:02}" for i in range(18)), "other"]
    assert matrix.counts[0][-1] == 2  # answered with a rare label
    assert matrix.counts[-1][-1] == 12
    assert sum(map(sum, matrix.counts)) == 48
    assert matrix.answers == [
        *(f"{i:02}" for i in range(18)),
        "other label",
    ]  # a rare label answered with another is not right


@pytest.mark.parametrize(
    ("labels", "sums"),
    [
        (["no label", "spam"], ["(no label)"]),
        (["no label", "(no label)", "spam"], ["((no label))"]),
        (["other", "other label", "no label", *"abcdefghijklmnopqrstuvwxyz"], ["(other label)", "(no label)"]),
    ],
)
def test_labels_with_the_name_of_a_sum_are_counted_once(labels: list[str], sums: list[str]) -> None:
    references = [*labels, *labels[:3]]  # these are frequent
    answers = ["?", *references[1:]]
    matrix = confusion(rows_of("classification", {"adapter": answers}, references), "adapter")
    assert matrix.answers[-len(sums) :] == sums
    assert len(set(matrix.answers)) == len(matrix.answers)
    assert sum(map(sum, matrix.counts)) == len(references)
    assert matrix.counts[matrix.expected.index(labels[0])][-1] == 1
    assert all(matrix.counts[matrix.expected.index(label)][matrix.answers.index(label)] for label in labels[:2])


def without_a_result() -> tuple[dict[str, Any], RowComparison]:
    """An evaluation whose adapter has no result on the second row, and what is read of it."""
    rows = rows_of("classification", ANSWERS, TONES)
    evaluation = evaluation_of("classification", rows)
    del rows[1].models["adapter"]
    comparison = read_comparison(evaluation, rows)
    assert comparison is not None
    return evaluation, comparison


def test_an_export_whose_model_lacks_results_on_a_row_has_no_lost_rows() -> None:
    _, comparison = without_a_result()
    assert [part.title for part in errors(comparison)] == [
        "Wrong in all trained models",
        "Most confident errors of onnx-int4",
    ]


def test_a_model_without_results_on_each_row_is_not_compared() -> None:
    evaluation, comparison = without_a_result()
    assert set(comparison.scores) == {"majority label", "base", "onnx-int4"}
    assert read_comparison(evaluation, []) is None


def test_the_surest_error_is_the_one_with_the_most_probable_answer() -> None:
    rows = rows_of("classification", ANSWERS, TONES)
    for row, (joy, fear) in zip(rows, [(-3.0, -1.0), (-1.0, -2.0), (-2.0, -1.0), (-0.1, -4.0)], strict=True):
        object.__setattr__(row.models["onnx-int4"], "label_logprobs", {"joy": joy, "fear": fear})
    measured = rows[0].models["onnx-int4"]
    assert confidence(measured) == pytest.approx(1 / (1 + math.exp(-2)))
    object.__setattr__(measured, "loss", 9.0)
    found = errors(comparison_of("classification", rows))[-1]
    assert found.rows == [3, 0]
    assert "probability" in found.note
    assert confidence(rows[1].models["adapter"]) is None


def test_untrained_variants_of_the_base_are_not_trained() -> None:
    answers = {"base": ["?"] * 4, "base, labels scored": ["joy"] * 4, "base, few-shot": ["joy"] * 4, "adapter": TONES}
    assert comparison_of("classification", rows_of("classification", answers, TONES)).trained == ["adapter"]
