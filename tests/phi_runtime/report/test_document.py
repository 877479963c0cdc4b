from __future__ import annotations

import base64
import hashlib
import re
import unicodedata
from itertools import pairwise
from typing import get_args

import pytest

from phi_runtime.config.tasks import TASKS
from phi_runtime.report.document import MAX_BYTES
from phi_runtime.report.project_facts import Curves, StageFacts
from phi_runtime.report.verdict import Verdict
from phi_runtime.training.diagnosis.problem import Diagnosis, ProblemKind
from tests.phi_runtime.report.cases import (
    Page,
    benchmarks_of,
    free_text,
    full_evaluation,
    page_of,
    ratings_of,
    rows_of,
    training_of,
)

HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "</style><style>*{display:none}</style>",
    "]]><svg onload=alert(1)>",
    "{{ 7191 * 7 }}{% raw %}",
    "\x1b[31mred\x1b]8;;http://evil.example\x07link\x9b2J",
    "\u202egnp.exe\u2066\u2069\u200f\u061c",
    "nul\x00 and \ud800 and \ufeff and \U000e0041",
    "javascript:alert(1)",
    "`</code><b>`",
)


def check(page: Page) -> None:
    """What holds for each report."""
    assert not page.errors
    assert len(page.html.encode()) <= MAX_BYTES
    assert not page.tags & {"script", "img", "iframe", "link", "object", "embed", "form", "base", "b"}
    assert not [name for name, _ in page.attributes if name.startswith("on") or name in ("src", "style")]
    assert all(value.startswith("#") for name, value in page.attributes if name == "href")
    ids = [value for name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    assert {value[1:] for name, value in page.attributes if name == "href"} <= set(ids)
    levels = [level for level, _ in page.headings]
    assert levels.count(1) == 1
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert all({"title", "desc"} <= set(image) for image in page.images)
    acting = {char for char in page.html if unicodedata.category(char) in ("Cc", "Cf", "Cs") and char not in "\n\t"}
    assert not acting
    policy = [value for name, value in page.attributes if name == "content" and "default-src" in value]
    assert len(policy) == 1
    style = page.html.split("<style>")[1].split("</style>")[0]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert policy[0] == f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"


LABELS = ["joy", "fear", "joy", "fear"] * 5
ANSWERS = {
    "majority label": ["joy"] * 20,
    "base": ["happy"] * 20,
    "adapter": LABELS,
    "merged": LABELS,
    "onnx-int4": [*LABELS[:19], "joy"],
}


def test_a_classification_has_each_section() -> None:
    page = page_of(training_of("classification", rows_of("classification", ANSWERS, LABELS)))
    check(page)
    sections = [text for level, text in page.headings if level == 2]
    assert sections == [
        "Models",
        "Findings",
        "What was run",
        "Comparison",
        "Training",
        "Confusion matrices",
        "Errors",
        "Slices",
        "Samples",
        "Time and memory",
        "Provenance",
    ]
    assert "20 of 1,402 validation rows" in page.text
    assert "datasets/train.jsonl:20" in page.text  # lost by int4
    assert "one seed (42)" in page.text
    assert len(page.images) == 2 * 2 + 4  # models and losses for two widths, and a matrix of each model


def test_the_verdict_is_first_with_its_light_rule_and_three_findings() -> None:
    findings = [Diagnosis(kind, f"evidence {i}", "r", "r 8 → 16") for i, kind in enumerate(get_args(ProblemKind)[:5])]
    verdict = Verdict("check", "Check first: `r`", "check: look at it", tuple(findings), ("phi-scaffold data check",))
    page = page_of(training_of("classification", rows_of("classification", ANSWERS, LABELS), verdict=verdict))
    check(page)
    assert page.headings[0] == (1, "Check first: r")
    assert ("class", "light warn") in page.attributes
    before, more = page.text.split("2 more")
    assert [f"evidence {i}" in before for i in range(5)] == [True, True, True, False, False]
    assert "evidence 4" in more
    assert "phi-scaffold data check" in page.text


def test_seeds_choices_medians_and_own_metrics_are_shown() -> None:
    rows = rows_of("classification", ANSWERS, LABELS)
    page = page_of(training_of("classification", rows, evaluation=full_evaluation("classification", rows)))
    check(page)
    for text in (
        "42, 43",
        "50.0–75.0",  # over seeds
        "chosen on these rows: early stopping",
        "3 exceed the context",
        "250 ms",
        "50 40–60",
        "mean cost",
        "2.5 2–3",
    ):
        assert text in page.text
    assert "one seed" not in page.text


def test_ratings_and_benchmarks_are_shown_where_there_are_any() -> None:
    rows = rows_of("classification", ANSWERS, LABELS)
    page = page_of(training_of("classification", rows, ratings=[ratings_of()], benchmarks=benchmarks_of()))
    check(page)
    sections = [text for level, text in page.headings if level == 2]
    assert sections[sections.index("Samples") + 1 :][:2] == ["Ratings by people", "Benchmarks"]
    for text in (
        "40 of 40 rows rated by 2 people",
        "onnx-int4, compared with merged: better (+0.75",
        "onnx-int4 is preferred to merged in 10 of 10 rows without a tie (30 ties): 100.0 %, 72.2–100.0",
        "Agreement of ratings in 40 rows: Krippendorff's alpha 1.00",
        "Judge tiny-judge: kappa 1.00 with people in 40 rows",
        "12.500",
        "0.375–0.500",
        "200 of 2,376",
    ):
        assert text in page.text, text
    assert page.text.count("lower is better") == 2


def test_the_energy_of_stages_is_shown_where_it_was_measured() -> None:
    training = training_of("classification", rows_of("classification", ANSWERS, LABELS))
    assert "energy" not in page_of(training).text
    figures = {"wall_s": 172.6, "peak_rss_bytes": 10**9, "cpu_energy_j": 4_500.0, "gpu_energy_j": None}
    stages = [StageFacts("finetune", "LoRA", "cached", figures=figures), StageFacts("merge", "Merge", "missing")]
    page = page_of(training, stages=stages)
    check(page)
    assert "CPU 1.25 Wh" in page.text
    assert "other programs included" in page.text


@pytest.mark.parametrize("task", TASKS)
def test_each_task_has_a_report(task: str) -> None:
    references = ['{"total": 3}' if task == "extraction" else f"answer number {i}" for i in range(12)]
    wrong = ["nothing", *references[1:]]
    page = page_of(
        training_of(task, rows_of(task, {"base": ["no"] * 12, "adapter": references, "onnx-int4": wrong}, references))
    )
    check(page)
    assert "Lost by onnx-int4" in page.text


def test_an_extraction_has_a_table_of_its_fields() -> None:
    references = ['{"name": "Ann", "lines": [{"qty": 2}, {"qty": 3}]}', '{"name": "Bo"}'] * 6
    answers = ['{"name": "Ann", "lines": [{"qty": 2}, {"qty": 4}]}', "no JSON"] * 6
    rows = rows_of("extraction", {"base": ["?"] * 12, "merged": references, "onnx-int4": answers}, references)
    page = page_of(training_of("extraction", rows))
    check(page)
    assert (2, "Fields") in page.headings
    table = page.html.split("Precision and recall of each field")[1].split("</table>")[0]
    cells = re.findall(r"(lines\[\]\.qty|name)</bdi>|>([^<>]+ %)", table)
    assert [name or share for name, share in cells] == [
        *("lines[].qty", "100.0 %", "100.0 %", "50.0 %", "50.0 %"),
        *("name", "100.0 %", "100.0 %", "100.0 %", "50.0 %"),
    ]
    assert "25.4–74.6" in table  # the names that int4 finds


def test_free_text_has_perplexities_and_no_answers() -> None:
    rows = free_text({"base": [30.0, 20.0, 25.0, 31.0] * 3, "adapter": [20.0, 11.0, 15.0, 22.0] * 3})
    page = page_of(training_of("generation", rows))
    check(page)
    assert "perplexity" in page.text
    assert "expected" not in page.text


def test_several_trainings_have_a_section_each() -> None:
    rows = rows_of("classification", ANSWERS, LABELS)
    page = page_of(training_of("classification", rows), training_of("classification", rows, name="style"))
    check(page)
    assert page.headings[0] == (1, "2 trainings")


def test_without_a_comparison_the_report_names_the_command_that_makes_one() -> None:
    page = page_of(
        training_of("classification", []), stages=[StageFacts("merge", "Merge", "failed", why="disk is `full`")]
    )
    check(page)
    assert page.headings[0] == (1, "Nothing is trained yet: run phi-scaffold run")
    assert "disk is full" in page.text


def test_a_project_without_training_has_a_report() -> None:
    check(page_of())


def test_a_training_that_did_not_end_shows_its_losses() -> None:
    curves = Curves([(1, 2.5), (2, 2.0)], complete=False)
    page = page_of(training_of("classification", [], curves=curves, results={}))
    check(page)
    assert "did not end" in page.text
    assert len(page.images) == 2


@pytest.mark.parametrize("text", HOSTILE)
def test_nothing_in_the_data_acts(text: str) -> None:
    labels = [text, "joy"] * 10
    answers = {"majority label": ["joy"] * 20, "base": [text] * 20, f"onnx-{text}": ["joy"] * 20}
    rows = rows_of("classification", answers, labels, [f"{text} {i}" for i in range(20)], [f"{text}.jsonl", "b"] * 10)
    data = {
        "datasets": [
            {
                "name": text,
                "files": [text],
                "form": text,
                "row_type": "questions",
                "rows": {"read": 20, "kept": 20},
                "labels": {text: 10, "joy": 10},
                "tokens": {"histogram": [{"up_to": 32, "rows": 20}], "percentiles": {"50": 12, "100": 20}},
            }
        ],
        "splits": None,
        "warnings": [text],
    }
    stages = [StageFacts(text, text, "failed", text, text, text, {}, text)]
    record = {
        "base_model": {"content": text},
        "data": [{"name": text, "files": [{"file": text, "size_bytes": 1, "sha256": text}]}],
        "git": {"commit": text, "changed": True},
    }
    values = {"project": text, "task_name": text, "base_model": text, "run": text}
    environment = {"python": text, "platform": text, "cores": 2, "versions": {text: text}}
    training = training_of(
        "classification",
        rows,
        name=text,
        note=text,
        ratings=[ratings_of("base", f"onnx-{text}", text)],
        benchmarks=[{**entry, "metric": text} for entry in benchmarks_of(text, [text])],
        data=data,
        results={"diagnosis": [dict.fromkeys(("problem", "evidence", "advice"), text)], "dtype": text},
        verdict=Verdict("not ready", text, text, (Diagnosis("plateau", text, text, text, file=text),) * 5, (text,)),
    )
    page = page_of(training, stages=stages, record=record, environment=environment, **values)
    check(page)
    assert "50337" not in page.text


def test_a_report_of_long_texts_and_many_labels_is_small_and_says_how_much_it_shows() -> None:
    count = 1000
    labels = [f"label {i % 400}" for i in range(count)]
    answers = {"base": ["x" * 5000] * count, "adapter": ["y" * 5000] * count, "onnx-int4": labels}
    rows = rows_of("classification", answers, labels, ["<&>" * 4000] * count)
    page = page_of(training_of("classification", rows))
    check(page)
    assert "more characters" in page.text
