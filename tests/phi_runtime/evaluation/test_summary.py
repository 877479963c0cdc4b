"""Summaries of made-up rows, with the figures computed by hand."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from phi_runtime.evaluation.intervals import wilson
from phi_runtime.evaluation.row_results import Measured, RowResult, read_rows, write_rows
from phi_runtime.evaluation.summary import summarize


def rows(answers: dict[str, list[str]], references: list[str], baselines: int = 0) -> list[RowResult]:
    names = list(answers)
    return [
        RowResult(
            "rows.jsonl",
            i + 1,
            f"question {i}",
            reference,
            {
                name: Measured(answers[name][i])
                if names.index(name) < baselines
                else Measured(answers[name][i], {}, 0.5, 2)
                for name in names
            },
        )
        for i, reference in enumerate(references)
    ]


def test_a_trained_model_is_compared_with_the_best_baseline_and_later_ones_with_the_model_before() -> None:
    expected = ["joy"] * 40 + ["fear"] * 20
    found = summarize(
        "classification",
        rows(
            {
                "majority label": ["joy"] * 60,
                "nearest row": ["fear"] * 60,
                "base": ["?"] * 60,
                "adapter": expected,
                "onnx-int4": [*expected[:-2], "joy", "joy"],
            },
            expected,
            baselines=2,
        ),
    )
    by_name = {summary["name"]: summary for summary in found}
    assert [summary["perplexity"] is None for summary in found] == [True, True, False, False, False]
    assert by_name["majority label"]["metrics"]["accuracy"] == pytest.approx(2 / 3)
    assert by_name["majority label"]["interval"] == wilson(40, 60)
    assert by_name["majority label"]["versus"] is by_name["base"]["versus"] is None
    adapter, int4 = by_name["adapter"]["versus"], by_name["onnx-int4"]["versus"]
    assert (adapter["model"], adapter["lost"], adapter["gained"], adapter["outcome"]) == (
        "majority label",
        0,
        20,
        "better",
    )
    assert (int4["model"], int4["lost"], int4["gained"], int4["p"]) == ("adapter", 2, 0, 0.5)
    assert int4["outcome"] == "no difference seen"
    assert int4["difference"] == pytest.approx(-2 / 60)


def test_likelihoods_are_those_of_the_references_per_answer_and_per_token() -> None:
    [summary] = summarize("classification", rows({"adapter": ["a", "b", "a"]}, ["a", "b", "b"]))
    assert summary["loss"] == 0.5
    assert summary["perplexity"] == pytest.approx(math.exp(0.25))
    assert summary["perplexity_interval"] is None  # no row differs from another
    assert summary["versus"] is None


def test_free_text_is_compared_by_the_likelihood_of_a_token() -> None:
    def measured(losses: list[float], tokens: list[int]) -> list[Measured]:
        return [Measured(None, {}, loss, count) for loss, count in zip(losses, tokens, strict=True)]

    base, tuned = measured([30, 8, 21, 44] * 8, [10, 4, 10, 20] * 8), measured([20, 6, 15, 30] * 8, [10, 4, 10, 20] * 8)
    found = summarize(
        "generation",
        [
            RowResult("t.txt", i + 1, None, None, {"base": b, "adapter": t})
            for i, (b, t) in enumerate(zip(base, tuned, strict=True))
        ],
    )
    assert [summary["metrics"] for summary in found] == [{}, {}]
    assert found[0]["perplexity"] == pytest.approx(math.exp(103 / 44))
    assert found[1]["versus"]["difference"] == pytest.approx((103 - 71) / 44)
    assert (found[1]["versus"]["outcome"], found[1]["versus"]["gained"]) == ("better", 32)


def test_fields_weigh_equally_over_all_rows() -> None:
    answers = ['{"a": 1, "b": 2, "c": 3}', '{"a": 9}']
    references = ['{"a": 1, "b": 2, "c": 3}', '{"a": 1}']
    [summary] = summarize("extraction", rows({"adapter": answers}, references))
    assert summary["metrics"]["field_f1"] == pytest.approx(2 * 3 / 8)
    assert summary["interval"].low <= 2 * 3 / 8 <= summary["interval"].high


def test_rows_are_read_as_they_were_written(tmp_path: Path) -> None:
    written = rows({"base": ["a\nb", "ü"]}, ["a", "b"])
    write_rows(tmp_path / "rows.jsonl", written)
    assert read_rows(tmp_path / "rows.jsonl") == written
    assert len((tmp_path / "rows.jsonl").read_text(encoding="utf-8").splitlines()) == 2


def test_the_loss_of_a_label_is_that_without_its_end() -> None:
    measured = [Measured("joy", {}, 0.9, 3, 0.1 * i, 1) for i in range(1, 4)]
    found = [RowResult("r.jsonl", i, "q", "joy", {"adapter": m}, None, 3) for i, m in enumerate(measured)]
    [summary] = summarize("classification", found)
    assert summary["label_loss"] == pytest.approx(0.9 - 0.2)
    low, high = summary["label_loss_interval"]
    assert low < 0.7 < high
    assert summary["bits_per_byte"] is None


def test_bits_per_byte_are_those_of_the_text_without_its_end() -> None:
    losses, sizes = [8.0, 14.0, 3.0], [4, 10, 1]
    rows_of_text = [
        RowResult("t.txt", i, None, None, {"base": Measured(None, {}, loss + 1, 5, 1.0, 1)}, None, size)
        for i, (loss, size) in enumerate(zip(losses, sizes, strict=True))
    ]
    [summary] = summarize("generation", rows_of_text)
    assert summary["bits_per_byte"] == pytest.approx(25 / math.log(2) / 15)
    assert summary["bits_per_byte_interval"][0] < 25 / math.log(2) / 15 < summary["bits_per_byte_interval"][1]
    assert summary["label_loss"] is None


def test_the_best_label_per_character_is_acc_norm_and_ways_to_ask_the_base_are_untrained() -> None:
    def measured(answer: str, logprobs: dict[str, float] | None) -> Measured:
        return Measured(answer, {}, 0.5, 2, label_logprobs=logprobs)

    rows_of_labels = [
        RowResult(
            "r.jsonl",
            i,
            "q",
            reference,
            {
                "base": measured("?", None),
                "base, labels scored": measured("joy", {"joy": -3.0, "surprise": -4.0}),
                "adapter": measured(reference, None),
            },
        )
        for i, reference in enumerate(["joy"] * 10 + ["surprise"] * 30)
    ]
    base, scored, adapter = summarize("classification", rows_of_labels)
    assert (scored["metrics"]["accuracy"], scored["acc_norm"], base["acc_norm"]) == (0.25, 0.75, None)
    assert scored["acc_norm_interval"] == wilson(30, 40)
    assert (scored["versus"], adapter["versus"]["model"]) == (None, "base, labels scored")
