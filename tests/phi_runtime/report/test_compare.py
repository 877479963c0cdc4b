from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from phi_runtime.core.errors import UsageError
from phi_runtime.core.project import ProjectFolder
from phi_runtime.evaluation.row_results import write_rows
from phi_runtime.report.write import write_comparison
from tests.factory import tiny_project
from tests.phi_runtime.report.cases import Page, evaluation_of, rows_of
from tests.phi_runtime.report.test_document import check

BEFORE, AFTER = "20260101-000000-000000", "20260102-000000-000000"
TONES = ["joy", "fear"] * 10


def write_run(project: ProjectFolder, run: str, rank: int, wrong: int, **versions: str) -> None:
    folder = project.runs / run
    (folder / "evaluation").mkdir(parents=True)
    config = {"passes": {"finetune": {"type": "LoRA", "train_data_config": "train_data", "r": rank}}}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (folder / "environment.json").write_text(json.dumps({"python": "3.11.7", "versions": versions}), encoding="utf-8")
    rows = rows_of("classification", {"base": ["?"] * 20, "adapter": ["?"] * wrong + TONES[wrong:]}, TONES)
    (folder / "evaluation" / "evaluation.json").write_text(
        json.dumps(evaluation_of("classification", rows)), encoding="utf-8"
    )
    write_rows(folder / "evaluation" / "rows.jsonl", rows)


@pytest.fixture
def project(tmp_path: Path) -> ProjectFolder:
    project = tiny_project(tmp_path / "tiny", Path("org/tiny"))
    write_run(project, BEFORE, 8, wrong=8, torch="2.12.0")
    write_run(project, AFTER, 16, wrong=0, torch="<script>2.13.0\x1b[31m")
    return project


def compared(project: ProjectFolder, before: str, after: str) -> tuple[Page, dict[str, Any]]:
    path, content = write_comparison(project, before, after)
    assert path == project.gen_model / "comparison.html"
    return Page(path.read_text(encoding="utf-8")), content


def test_two_runs_are_compared_by_settings_scores_and_versions(project: ProjectFolder) -> None:
    page, content = compared(project, BEFORE[:8], "latest")
    check(page)
    assert content["settings"] == [{"key": "passes.finetune.r", "before": 8, "after": 16}]
    adapter = next(score for score in content["scores"] if score["model"] == "adapter")
    assert (adapter["before"]["value"], adapter["after"]["value"], adapter["shared_rows"]) == (0.6, 1.0, 20)
    assert (adapter["versus"]["lost"], adapter["versus"]["gained"], adapter["versus"]["outcome"]) == (0, 8, "better")
    assert "60.0 %" in page.text
    assert "better" in page.text
    assert "<script>2.13.0␛[31m" in page.text


def test_a_run_without_an_evaluation_is_compared_by_its_settings(project: ProjectFolder) -> None:
    (project.runs / AFTER / "evaluation" / "evaluation.json").unlink()
    page, content = compared(project, BEFORE, AFTER)
    check(page)
    assert content["scores"] == []
    assert "no model in common" in page.text


def test_an_unknown_run_is_a_usage_error(project: ProjectFolder) -> None:
    with pytest.raises(UsageError):
        write_comparison(project, BEFORE, "2027")
    assert not (project.gen_model / "comparison.html").exists()
