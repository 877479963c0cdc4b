from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from phi_runtime.core.artifacts import seal
from phi_runtime.core.project import ProjectFolder
from phi_runtime.evaluation.row_results import write_rows
from phi_runtime.pipeline.load import load_workflow
from phi_runtime.report.project_facts import ProjectFacts, TrainingFacts, read_project
from phi_runtime.report.write import write_report
from tests.factory import tiny_project
from tests.phi_runtime.report.cases import evaluation_of, rows_of

LOG = [
    {"step": 1, "loss": 3.0, "learning_rate": 0.01},
    {"step": 2, "loss": 2.0, "learning_rate": 0.02},
    {"step": 2, "eval_loss": 2.5},
    {"step": 3, "loss": None, "learning_rate": 0.01},
    {"step": 3, "eval_loss": 2.1},
]
FACTS = {
    "steps": 3,
    "best_step": 2,
    "rows": 4,
    "validation_rows": 4,
    "diagnosis": [],
    "inputs": {"config": {"type": "LoRA", "r": 4}},
}


def write_lines(path: Path, lines: list[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"cut', encoding="utf-8")


def write_run(project: ProjectFolder, name: str, /, **files: Any) -> None:
    folder = project.runs / name
    folder.mkdir(parents=True)
    for file, content in files.items():
        (folder / f"{file}.json").write_text(json.dumps(content), encoding="utf-8")


def facts_of(project: ProjectFolder) -> ProjectFacts:
    return read_project(load_workflow(project.config), project)


def training_of(project: ProjectFolder) -> TrainingFacts:
    (training,) = facts_of(project).trainings
    return training


@pytest.fixture
def project(tmp_path: Path) -> ProjectFolder:
    """A project that nothing has run in; its base model is not downloaded."""
    return tiny_project(tmp_path / "tiny", Path("org/tiny"))


@pytest.fixture
def trained(project: ProjectFolder) -> ProjectFolder:
    adapter = project.gen_model / "adapter"
    adapter.mkdir(parents=True, exist_ok=True)
    write_lines(adapter / "loss_log.jsonl", LOG)
    seal(adapter, key="k", kind="adapter", facts=FACTS)
    return project


@pytest.fixture
def compared(trained: ProjectFolder) -> ProjectFolder:
    references = ["joy", "fear"] * 2
    rows = rows_of("classification", {"base": ["?"] * 4, "adapter": references}, references)
    folder = trained.gen_model / "evaluation"
    folder.mkdir(parents=True)
    (folder / "evaluation.json").write_text(json.dumps(evaluation_of("classification", rows)), encoding="utf-8")
    write_rows(folder / "rows.jsonl", rows)
    return trained


def test_a_project_that_never_ran_has_no_facts(project: ProjectFolder) -> None:
    facts = facts_of(project)
    assert (facts.project, facts.base_model, facts.run, facts.time) == ("tiny", "org/tiny", "", None)
    assert {stage.name: stage.state for stage in facts.stages}["finetune"] == "missing"
    assert training_of(project).evaluation is None
    assert training_of(project).verdict is None


def test_curves_are_those_of_the_trained_model(trained: ProjectFolder) -> None:
    training = training_of(trained)
    assert training.curves.loss == [(1, 3.0), (2, 2.0)]
    assert training.curves.validation == [(2, 2.5), (3, 2.1)]
    assert training.curves.learning_rate == [(1, 0.01), (2, 0.02), (3, 0.01)]
    assert (training.curves.best_step, training.curves.lowest, training.curves.complete) == (2, (3, 2.1), True)
    assert training.settings == {"type": "LoRA", "r": 4}
    assert training.results == {"steps": 3, "best_step": 2, "rows": 4, "validation_rows": 4, "diagnosis": []}


def test_a_training_that_failed_has_the_curves_of_its_last_run(project: ProjectFolder) -> None:
    for run, loss in (("20260101-000000-000000", 9.0), ("20260102-000000-000000", 4.0)):
        entry = {"event": "metric", "stage": "finetune", "step": 1, "loss": loss, "validation_loss": 5.0}
        write_lines(project.runs / run / "metrics.jsonl", [{"stage": "finetune", "rows": 4}, entry])
    curves = training_of(project).curves
    assert (curves.loss, curves.validation, curves.complete) == ([(1, 4.0)], [(1, 5.0)], False)


def test_figures_of_a_stage_are_those_of_the_last_run_that_executed_it(project: ProjectFolder) -> None:
    first = [{"stage": "finetune", "state": "done", "wall_s": 9.0}, {"stage": "merge", "state": "done", "wall_s": 2.0}]
    write_run(project, "20260101-000000-000000", stages=first, environment={"python": "3.11"})
    write_run(
        project,
        "20260102-030405-000000",
        stages=[{"stage": "merge", "wall_s": 3.0, "peak_rss_bytes": 7}],
        run={"id": "x"},
    )
    facts = facts_of(project)
    stages = {stage.name: (stage.run[:8], stage.figures) for stage in facts.stages}
    assert stages["finetune"] == ("20260101", {"wall_s": 9.0})
    assert stages["merge"] == ("20260102", {"wall_s": 3.0, "peak_rss_bytes": 7})
    assert stages["export"] == ("", {})
    assert (facts.run, facts.record, facts.environment) == ("20260102-030405-000000", {"id": "x"}, {"python": "3.11"})
    assert facts.time is not None
    assert facts.time.isoformat() == "2026-01-02T03:04:05"


def test_a_comparison_has_its_rows_and_a_verdict(compared: ProjectFolder) -> None:
    training = training_of(compared)
    assert training.evaluation is not None
    assert training.evaluation["rows"] == len(training.rows) == 4
    assert training.verdict is not None
    assert "`" in training.note  # the base model is not there, so the comparison cannot be up to date


@pytest.mark.parametrize("content", ["{", '{"models": []}', "[]"])
def test_a_comparison_of_another_version_is_not_shown(compared: ProjectFolder, content: str) -> None:
    (compared.gen_model / "evaluation" / "evaluation.json").write_text(content, encoding="utf-8")
    assert training_of(compared).evaluation is None
    write_report(load_workflow(compared.config), compared)


@pytest.mark.parametrize("content", ["", "{", '{"file": "a", "line": 1}\n', "[]\n"])
def test_rows_that_cannot_be_read_are_a_note(compared: ProjectFolder, content: str) -> None:
    (compared.gen_model / "evaluation" / "rows.jsonl").write_text(content, encoding="utf-8")
    training = training_of(compared)
    assert training.evaluation is not None
    assert training.rows == []
    assert "rows.jsonl" in training.note
    write_report(load_workflow(compared.config), compared)


def test_the_same_files_make_the_same_page(compared: ProjectFolder) -> None:
    workflow = load_workflow(compared.config)
    path, _ = write_report(workflow, compared)
    page = path.read_bytes()
    write_report(workflow, compared)
    assert path == compared.gen_model / "report.html"
    assert path.read_bytes() == page
    assert str(compared.root).encode() not in page
