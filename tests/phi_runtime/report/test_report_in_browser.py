"""The report in Chromium: silent, readable on a screen, on a phone, dark and printed, and accessible. Keeps screenshots."""

from __future__ import annotations

from pathlib import Path

import pytest

from phi_runtime.report.project_facts import Curves
from phi_runtime.report.verdict import Verdict
from phi_runtime.training.diagnosis import Diagnosis
from tests.phi_runtime.report.cases import benchmarks_of, page_of, ratings_of, rows_of, training_of
from tests.report_page import PHONE, SCREEN, Media, report_page

LABELS = ["joy", "fear", "sadness", "surprise"] * 30
LONG = "Donaudampfschifffahrtsgesellschaftskapitän" * 8
BROKEN = '<!doctype html><title>t</title><img src="data:,x"><button></button>'


def report() -> str:
    """Return the report of a training with each of its sections, and with texts that have no place to break."""
    worse = [*LABELS[:110], *["joy"] * 10]
    answers = {
        "majority label": ["joy"] * 120,
        "TF-IDF + logistic regression": worse,
        "nearest training row": worse,
        "base": [LONG, "I\u202e <b>"] * 60,
        "base, labels scored": worse,
        "base, 4 examples": worse,
        "adapter": LABELS,
        "merged": LABELS,
        "onnx-int4": [*LABELS[:119], "joy"],
    }
    rows = rows_of(
        "classification", answers, LABELS, [f"Text {i}: {LONG if i % 9 == 0 else 'we won'}" for i in range(120)]
    )
    steps = range(5, 505, 5)
    curves = Curves(
        [(step, 20 / step) for step in steps],
        [(step, 0.5 + step / 1000) for step in range(100, 501, 100)],
        [(step, 1e-4) for step in steps],
        best_step=100,
    )
    findings = (
        Diagnosis(
            "overfitting", "validation loss 0.6 at step 100, 1 at the end", "training_args.num_train_epochs", "3 → 1"
        ),
        Diagnosis("too little data", "480 rows for 4 labels", "", "collect rows of the rarest label"),
        Diagnosis("int4 loss", "4 rows lost, none gained (-6.5–-0.5 points)", "block_size", "block_size 128 → 32"),
    )
    verdict = Verdict(
        "check",
        "Check first: 119 of 120 right (95–100 %); simple baseline 93 %; int4 loses 4 rows, is 4.7 × smaller and 8.4 × faster",
        "check: a finding that can cost answers (overfitting)",
        findings,
        ("phi-scaffold run --set passes.finetune.training_args.num_train_epochs=1", "phi-scaffold chat"),
    )
    results = {"steps": 500, "rows": 480, "diagnosis": [findings[0].as_dict()]}
    facts = {"results": results, "curves": curves, "verdict": verdict}
    facts |= {"ratings": [ratings_of(judge=LONG)], "benchmarks": benchmarks_of()}
    return page_of(training_of("classification", rows, **facts)).html


@pytest.mark.slow
def test_the_report_is_readable_in_a_browser(tmp_path: Path) -> None:
    with report_page(report(), tmp_path) as page:
        assert page.requests() == {page.url}
        assert page.messages() == []
        first_screen = ("h1", ".light", ".first .dot-chart", "ol.findings", "dl.what")  # without scrolling
        assert max(page.bottom(part) for part in first_screen) <= SCREEN[1]
        views: list[tuple[str, tuple[int, int], Media]] = [
            ("wide", SCREEN, "screen"),
            ("dark", SCREEN, "dark"),
            ("print", SCREEN, "print"),
            ("narrow", PHONE, "screen"),
        ]
        for name, size, media in views:
            page.show(size, media)
            page.keep(f"report-{name}")
            page.open_all()
            assert page.overflow() == 0, name
            assert (max(page.background()) < 60) == (media == "dark")
            charts = [page.visible(f"{kind} .dot-chart") for kind in (".wide", ".narrow")]
            assert charts == ([0, 1] if size == PHONE else [1, 0])
            assert media == "print" or page.violations() == [], name
        (tmp_path / "report.html").write_text(BROKEN, encoding="utf-8")
        page.show()
        assert {violation.split(":")[0] for violation in page.violations()} >= {"image-alt", "button-name"}
