"""The verdict on constructed projects, each with one thing wrong: the light, the first finding, and the key to change."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from phi_runtime.report.verdict import Verdict, times
from tests.phi_runtime.report.projects import (
    BASE,
    CONFIG,
    CUT,
    LABELS,
    OVERFITTED,
    UNFINISHED,
    Answer,
    Built,
    Question,
    Row,
    always,
    data_config,
    models_of,
    perplexity,
    phrases,
    right,
    spelled_differently,
)

Build = Callable[..., Verdict]
MIXED = {"matmul_mixed_precision": "last_matmul:int8,mixed_layers:int8"}


@pytest.fixture(scope="session")
def tokenizer(tiny_tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    tiny_tokenizer.save_pretrained(folder)
    (folder / "config.json").write_text(
        '{"model_type": "phi3", "architectures": ["Phi3ForCausalLM"]}', encoding="utf-8"
    )
    return folder


@pytest.fixture
def build(tmp_path: Path, tokenizer: Path) -> Build:
    def verdict(files: dict[str, list[Row]], *arguments: Any, **settings: Any) -> Verdict:
        judged = Built(tmp_path / "project", tokenizer, files, *arguments, **settings).verdicts
        return judged["finetune"]

    return verdict


def first(verdict: Verdict) -> tuple[str, str, str, Any, str]:
    """Light, and problem, setting, value and file of the first finding."""
    finding = verdict.findings[0]
    return verdict.light, finding.problem, finding.setting, finding.value, finding.file


def test_a_good_project_is_ready_and_has_no_finding(build: Build) -> None:
    verdict = build({"train.jsonl": phrases(600)}, models_of(right(0.97), right(0.96)))
    assert (verdict.light, verdict.findings) == ("ready", ())
    baseline = verdict.sentence.split("simple baseline ")[1].split(" %")[0]
    assert verdict.sentence == (
        f"Ready to try: 116 of 120 right (92–99 %); simple baseline {baseline} %; "
        "int4 costs nothing measurable, is 4.7 × smaller"
    )
    assert verdict.commands == ("phi-scaffold chat", "phi-scaffold serve", "phi-scaffold report --open")


@pytest.mark.parametrize(
    ("ratio", "text"), [(1.24, "1.2"), (4.66, "4.7"), (99.4, "99"), (99.7, "100"), (153.4, "153"), (12345, "12,345")]
)
def test_a_ratio_has_no_exponent(ratio: float, text: str) -> None:
    assert times(ratio) == text


def test_overfitting_comes_before_the_missing_gain_that_it_explains(build: Build) -> None:
    verdict = build({"train.jsonl": phrases(600, vocabulary=12)}, models_of(right(0.8)), log=OVERFITTED)
    assert first(verdict) == (
        "not ready",
        "overfitting",
        "passes.finetune.training_args.num_train_epochs",
        0.8,
        CONFIG,
    )
    assert [finding.problem for finding in verdict.findings[1:]] == ["no better than a simple baseline"]


def test_overfitting_of_a_good_model_is_only_a_way_to_improve_it(build: Build) -> None:
    verdict = build({"train.jsonl": phrases(600)}, models_of(right(0.97)), log=OVERFITTED)
    assert (verdict.light, verdict.findings[0].problem) == ("ready", "overfitting")


def two_files(train: list[Row], test: list[Row]) -> dict[str, Any]:
    return {
        "files": {"train.jsonl": train, "test.jsonl": test},
        "passes__finetune__test_data_config": "test_data",
        "passes__finetune__eval_dataset_size": 0,
        "data_configs": [data_config("train_data", "train.jsonl"), data_config("test_data", "test.jsonl")],
    }


def test_test_rows_that_are_trained_make_a_score_worthless(build: Build) -> None:
    rows = phrases(460)
    settings = two_files(rows[:400], rows[370:])
    verdict = build(settings.pop("files"), models_of(right(1.0)), **settings)
    assert first(verdict) == ("check", "leakage", "passes.finetune.test_data_config", None, CONFIG)
    assert "30 of 90 test rows repeat training rows (30 the same question), such as datasets/test.jsonl:1 and" in (
        verdict.findings[0].evidence
    )
    assert "test_dataset_size 0 → 0.1" in verdict.findings[0].advice
    assert "phi-scaffold data check" in verdict.commands


def test_near_duplicates_between_training_and_test_rows_are_found(build: Build) -> None:
    rows = phrases(460)
    settings = two_files(rows[:400], [*rows[400:], *map(spelled_differently, rows[:40])])
    verdict = build(settings.pop("files"), models_of(right(1.0)), **settings)
    assert first(verdict)[:3] == ("check", "near duplicates", "passes.finetune.test_data_config")


def test_label_noise_shows_where_model_and_baseline_agree_against_the_label(build: Build) -> None:
    rows, chance = phrases(600, vocabulary=8), random.Random(5)
    truth = {row["phrase"]: row["tone"] for row in rows}
    for row in chance.sample(rows, 120):
        row["tone"] = chance.choice([label for label in LABELS if label != row["tone"]])

    def model(question: Question) -> tuple[str, float]:
        label = truth[question.row["phrase"]]
        return label, 0.1 if label == question.reference else 5.0

    verdict = build({"train.jsonl": rows}, models_of(model))
    assert first(verdict)[1:] == ("doubtful labels", "", None, "datasets/train.jsonl")
    assert verdict.light != "ready"
    assert "such as datasets/train.jsonl:" in verdict.findings[0].evidence


@pytest.mark.parametrize(("size", "value"), [(12, 0.3), (0.2, 0.3)])
def test_a_dozen_test_rows_cannot_tell(build: Build, size: float, value: float) -> None:
    settings = {"passes__finetune__eval_dataset_size": size}
    verdict = build({"train.jsonl": phrases(60)}, models_of(right(1.0)), **settings)
    assert first(verdict)[:4] == ("check", "too few test rows", "passes.finetune.eval_dataset_size", value)
    assert verdict.sentence.startswith("Check first, too few test rows: 12 of 12 right (76–100 %); ")


def test_of_many_test_rows_more_are_to_be_measured(build: Build) -> None:
    verdict = build({"train.jsonl": phrases(600)}, models_of(right(0.9)), evaluation={"max_rows": 16})
    assert first(verdict) == ("check", "too few test rows", "max_rows", 120, "fine-tuning/evaluation.json")


def test_a_few_dozen_training_rows_come_before_the_missing_gain(build: Build) -> None:
    settings = two_files(phrases(40, vocabulary=20), phrases(100, vocabulary=20, seed=2))
    verdict = build(settings.pop("files"), models_of(right(0.25)), **settings)
    assert first(verdict) == ("not ready", "too few training rows", "", None, "datasets/train.jsonl")
    assert verdict.findings[0].evidence == "40 training rows, 10 of each label"


def test_a_limit_of_the_training_rows_is_the_first_to_go(build: Build) -> None:
    settings = two_files(phrases(400, vocabulary=20), phrases(100, vocabulary=20, seed=2))
    settings["data_configs"][0]["load_dataset_config"]["split"] = "train[:40]"
    verdict = build(settings.pop("files"), models_of(right(0.25)), **settings)
    key = "data_configs.train_data.load_dataset_config.split"
    assert first(verdict) == ("not ready", "too few training rows", key, "train", CONFIG)


@pytest.mark.parametrize(
    ("export", "setting", "value"),
    [
        ({}, "extra_options.matmul_mixed_precision", MIXED["matmul_mixed_precision"]),
        ({"extra_options": MIXED, "int4_block_size": 64}, "int4_block_size", 32),
        ({"extra_options": MIXED}, "int4_calibration", {"tokens": 4096}),
        ({"extra_options": MIXED, "int4_calibration": {}}, "precision", "int8"),
        ({"extra_options": MIXED, "int4_algo_config": "rtn"}, "int4_algo_config", None),
    ],
)
def test_a_ruined_int4_model_is_not_ready_and_gets_the_next_remedy(
    build: Build, export: dict[str, Any], setting: str, value: Any
) -> None:
    settings = {
        "passes__export": {"type": "ModelBuilder", "precision": "int4", **export},
        "passes__finetune__int4_aware": "int4_algo_config" not in export,  # which training cannot round as
    }
    verdict = build({"train.jsonl": phrases(600)}, models_of(right(0.97), right(0.5)), **settings)
    assert first(verdict) == ("not ready", "loss by rounding", f"passes.export.{setting}", value, CONFIG)
    assert verdict.findings[0].evidence.startswith("accuracy 97 % (merged), 50 % (onnx-int4); 56 lost, 0 gained of 120")
    assert verdict.commands == ("phi-scaffold optimize", "phi-scaffold report --open")
    assert "int4 costs 47 points (56 rows lost, 0 gained)" in verdict.sentence


def wrong_in(*numbers: int) -> Answer:
    def answer(question: Question) -> tuple[str, float]:
        other = next(label for label in LABELS if label != question.reference)
        return (other, 4.0) if question.number in numbers else (question.reference, 0.05)

    return answer


def test_a_large_loss_that_the_rows_do_not_exclude_is_to_be_checked(build: Build) -> None:
    models = models_of(wrong_in(0, 1), wrong_in(*range(2, 10)))
    verdict = build({"train.jsonl": phrases(600)}, models)
    assert first(verdict)[:2] == ("check", "loss by rounding")
    assert "8 lost, 2 gained of 120 rows; -11 to +0 points" in verdict.findings[0].evidence
    assert "int4 shows no loss (-11 to +0 points are possible)" in verdict.sentence


def test_a_baseline_that_errs_elsewhere_makes_no_label_doubtful(build: Build) -> None:
    verdict = build({"train.jsonl": phrases(600)}, models_of(wrong_in(*range(14))))
    assert (verdict.light, verdict.findings) == ("ready", ())


def test_training_for_int4_is_a_remedy_where_it_is_not_set(build: Build) -> None:
    export = {"type": "ModelBuilder", "precision": "int4", "int4_block_size": 16, "extra_options": MIXED}
    calibrated = {**export, "int4_calibration": {"tokens": 512}}
    verdict = build({"train.jsonl": phrases(600)}, models_of(right(0.97), right(0.5)), passes__export=calibrated)
    assert first(verdict)[2:4] == ("passes.finetune.int4_aware", True)


def test_a_model_that_a_simple_baseline_beats_is_not_ready(build: Build) -> None:
    verdict = build({"train.jsonl": phrases(600, vocabulary=4)}, models_of(right(0.7)))
    assert first(verdict) == (
        "not ready",
        "no better than a simple baseline",
        "passes.finetune.training_args.num_train_epochs",
        4,
        CONFIG,
    )
    assert "of 120 rows; -" in verdict.findings[0].evidence


def test_a_base_model_that_is_better_is_named_as_such(build: Build) -> None:
    verdict = build({"train.jsonl": phrases(600)}, models_of(right(0.8), base=right(0.97)))
    assert first(verdict)[:2] == ("not ready", "no better than the base model")
    assert "; base model 97 %; " in verdict.sentence


def test_contradictory_labels_come_before_the_missing_gain_that_they_explain(build: Build) -> None:
    rows = phrases(200)
    both = [row | {"tone": tone} for row in rows for tone in ("joy", "fear")]
    verdict = build({"train.jsonl": both}, models_of(always("fear")))
    assert first(verdict) == ("not ready", "contradictory labels", "", None, "datasets/train.jsonl")
    assert verdict.findings[0].evidence.startswith(
        "200 questions in 400 rows have several labels, such as datasets/train"
    )


def test_a_rare_label_that_is_never_right_comes_before_the_missing_gain(build: Build) -> None:
    rows = [*phrases(540, labels=["joy"]), *phrases(60, labels=["fear"], seed=2)]
    verdict = build({"train.jsonl": rows}, models_of(always("joy")))
    assert first(verdict) == ("not ready", "class imbalance", "", None, "datasets/train.jsonl")
    assert verdict.findings[0].evidence == ("`fear`: 0 of 12 right (0–24 %), all labels: 90 %; 60 of 600 rows have it")


def test_a_loss_that_still_falls_comes_before_the_missing_gain(build: Build) -> None:
    verdict = build({"train.jsonl": phrases(600, vocabulary=12)}, models_of(right(0.6)), log=UNFINISHED)
    assert first(verdict)[:4] == ("not ready", "not finished", "passes.finetune.training_args.num_train_epochs", 4)


def test_without_labels_the_main_metric_of_the_task_decides(build: Build) -> None:
    rows = [{"phrase": row["phrase"], "tone": f"it is about {row['phrase']}"} for row in phrases(400, words=4)]

    def writes(question: Question) -> tuple[str, float]:
        return (question.reference if question.number % 10 else question.reference[:40]), 2.0

    verdict = build({"train.jsonl": rows}, models_of(writes), evaluation={"task": "generation"})
    assert (verdict.light, verdict.findings) == ("ready", ())
    assert verdict.sentence.startswith("Ready to try: token f1 99.3 % (99–100 %) on 80 rows; simple baseline 77 %")


def test_answers_that_end_at_the_limit_of_tokens_come_before_the_low_score_that_they_explain(build: Build) -> None:
    rows = [{"phrase": row["phrase"], "tone": f"it is about {row['phrase']}"} for row in phrases(400, words=4)]

    def writes(question: Question) -> tuple[str, float]:
        return f"it is{CUT}" if question.number % 2 else question.reference, 2.0

    evaluation = {"task": "generation", "max_new_tokens": 8}
    verdict = build({"train.jsonl": rows}, models_of(writes), evaluation=evaluation)
    evaluation_json = "fine-tuning/evaluation.json"
    assert first(verdict)[1:] == ("truncated answers", "max_new_tokens", 16, evaluation_json)
    assert verdict.light != "ready"
    assert verdict.findings[0].evidence == "40 of 80 answers end at max_new_tokens, after 8 tokens"


def test_the_base_with_examples_is_named_where_it_is_the_better_one(build: Build) -> None:
    models = {"base": BASE, "base, few-shot": right(0.97), "adapter": right(0.8)}
    verdict = build({"train.jsonl": phrases(600)}, models)
    assert first(verdict)[:2] == ("not ready", "no better than the base model")
    assert verdict.sentence.endswith("; base model, few-shot, 97 %")


FREE = {
    "data_configs": [data_config("train_data", "train.jsonl", "{phrase}")],
    "passes__finetune__completion_only_loss": False,
    "evaluation": {"task": "generation"},
}


def test_free_text_is_judged_by_its_perplexity(build: Build) -> None:
    models = models_of(perplexity(8), perplexity(8.2), perplexity(20))
    verdict = build({"train.jsonl": phrases(400)}, models, **FREE)
    assert (verdict.light, verdict.findings) == ("ready", ())
    assert verdict.sentence.startswith("Ready to try: perplexity 8.00 (7.9")
    assert "on 80 rows; base model 20.00; int4 has perplexity 8.20" in verdict.sentence


@pytest.mark.parametrize(
    ("models", "problem"),
    [
        (models_of(perplexity(8), perplexity(12), perplexity(20)), "loss by rounding"),
        (models_of(perplexity(20), base=perplexity(20)), "no better than the base model"),
    ],
)
def test_free_text_that_is_worse_is_not_ready(build: Build, models: Any, problem: str) -> None:
    verdict = build({"train.jsonl": phrases(400)}, models, **FREE)
    assert (verdict.light, verdict.findings[0].problem) == ("not ready", problem)


def test_a_dozen_rows_of_free_text_cannot_tell_either(build: Build) -> None:
    models = models_of(perplexity(20), base=perplexity(20))
    verdict = build({"train.jsonl": phrases(60)}, models, **FREE)
    assert first(verdict)[:4] == ("check", "too few test rows", "passes.finetune.eval_dataset_size", 0.3)


# -- less to go by ----------------------------------------------------------------------------------------------------


def test_without_test_rows_nothing_is_measured(build: Build) -> None:
    verdict = build({"train.jsonl": phrases(80)}, models_of(right(1.0)), passes__finetune__eval_dataset_size=0)
    assert first(verdict)[:4] == ("check", "not measured", "passes.finetune.eval_dataset_size", 0.1)
    assert verdict.sentence == "Check first, not measured: there are no test rows"


def test_one_label_teaches_nothing(build: Build) -> None:
    verdict = build({"train.jsonl": phrases(300, labels=["joy"])}, models_of(always("joy")))
    assert first(verdict)[:2] == ("not ready", "one label")
    assert verdict.findings[0].evidence == "all 300 rows have the label `joy`"


def test_a_baseline_without_an_error_leaves_nothing_to_gain(build: Build) -> None:
    verdict = build({"train.jsonl": phrases(600, vocabulary=2)}, models_of(right(1.0)))
    assert first(verdict)[:3] == ("check", "no better than a simple baseline", "")
    assert verdict.findings[0].advice.startswith("`logistic regression` answers these rows")


def test_a_base_model_alone_has_nothing_to_be_compared_with(build: Build) -> None:
    verdict = build({"train.jsonl": phrases(600)}, {"base": right(0.9)})
    assert first(verdict)[:2] == ("check", "no comparison")
    assert verdict.sentence == "Check first, no comparison: 108 of 120 right (83–94 %)"


def test_each_training_is_judged_by_itself_with_its_own_data(tmp_path: Path, tokenizer: Path) -> None:
    passes = {
        name: {
            "type": "LoRA",
            "train_data_config": data,
            "eval_dataset_size": 0.2,
            "training_args": {"learning_rate": 1e-4},
        }
        for name, data in (("finetune", "train_data"), ("other", "other_data"))
    }
    data = [data_config("train_data", "train.jsonl"), data_config("other_data", "other.jsonl")]
    files = {"train.jsonl": phrases(600), "other.jsonl": phrases(300, labels=["joy"])}
    models = {"base": BASE, "adapter": right(0.97)}
    built = Built(tmp_path / "project", tokenizer, files, models, data_configs=data, passes=passes)
    found = {name: [f.problem for f in verdict.findings] for name, verdict in built.verdicts.items()}
    assert found["finetune"] == []
    assert found["other"][0] == "one label"


def test_choices_on_the_measured_rows_are_said(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Built, "CHOSEN_ON", ["early stopping"])
    verdict = build({"train.jsonl": phrases(600)}, models_of(right(0.97)))
    assert first(verdict) == ("ready", "chosen on these rows", "passes.finetune.test_dataset_size", 0.1, CONFIG)
    assert verdict.findings[0].evidence == "on the same 120 validation rows: early stopping"


# -- the data ---------------------------------------------------------------------------------------------------------


def test_labels_in_two_spellings_are_one_label(build: Build) -> None:
    rows = phrases(600)
    for row in rows[::9]:
        row["tone"] = row["tone"].capitalize()
    verdict = build({"train.jsonl": rows}, models_of(right(0.8)))
    assert first(verdict)[1:] == ("inconsistent labels", "", None, "datasets/train.jsonl")
    assert verdict.findings[0].evidence.startswith("`surprise` 134 rows, `Surprise` 16 rows; ")


def test_rows_that_are_dropped_for_their_length_name_the_length_that_keeps_them(build: Build) -> None:
    long = [{**row, "phrase": " ".join([row["phrase"]] * 3)} for row in phrases(300, seed=2)]
    verdict = build({"train.jsonl": [*phrases(400), *long]}, models_of(right(0.97)))
    key = "data_configs.train_data.pre_process_data_config.max_seq_len"
    assert first(verdict)[:3] == ("check", "rows too long", key)
    assert verdict.findings[0].value % 64 == 0
    assert "300 of 700 rows exceed 128 tokens and are dropped" in verdict.findings[0].evidence


def test_rows_that_repeat_earlier_ones_are_only_a_remark(build: Build) -> None:
    rows = phrases(500)
    verdict = build({"train.jsonl": [*rows, *rows[:100]]}, models_of(right(0.97)))
    assert first(verdict)[:2] == ("ready", "duplicate rows")
    assert verdict.findings[0].evidence == "100 of 600 rows repeat an earlier one"
    assert "phi-scaffold data check" in verdict.commands
