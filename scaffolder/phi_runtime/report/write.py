"""Write the pages of a project, the report and the differences of two runs, with their content as JSON (docs/json.md)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from phi_runtime.config.schema import Workflow
from phi_runtime.core.artifacts import write_text
from phi_runtime.core.project import ProjectFolder
from phi_runtime.pipeline.run_record import FIGURES
from phi_runtime.report.differences import compare_runs
from phi_runtime.report.document import document, render
from phi_runtime.report.finish import REPORT
from phi_runtime.report.history import find_run
from phi_runtime.report.project_facts import ProjectFacts, StageFacts, read_project
from phi_runtime.report.row_views import RowComparison, RowList, Slice, TrainingView

COMPARISON = "comparison.html"


def write_report(workflow: Workflow, project: ProjectFolder) -> tuple[Path, dict[str, Any]]:
    """Write the report from the files in gen-model/; return its path, and its content for `--json`. Raises OSError."""
    facts = read_project(workflow, project)
    trainings = [TrainingView(training) for training in facts.trainings]
    path = project.gen_model / REPORT
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, document(facts, trainings))
    return path, _as_json(facts, trainings)


def write_comparison(project: ProjectFolder, before: str, after: str) -> tuple[Path, dict[str, Any]]:
    """Write the differences of two runs to gen-model/comparison.html; return its path, and its content for `--json`.

    Args:
        before, after: Ids of runs, or their beginnings; `latest` is the newest run.

    Raises:
        UsageError: There is no such run.
        OSError: The file cannot be written.
    """
    differences = compare_runs(find_run(project, before), find_run(project, after))
    path = project.gen_model / COMPARISON
    write_text(path, render("comparison.html.jinja", differences=differences))
    return path, differences.as_dict()


def _as_json(facts: ProjectFacts, trainings: Sequence[TrainingView]) -> dict[str, Any]:
    """Return what `document` shows, without the texts of rows, which are in rows.jsonl."""
    return {
        "project": facts.project,
        "task_name": facts.task_name,
        "base_model": facts.base_model,
        "run": facts.run,
        "time": facts.time.isoformat(timespec="seconds") if facts.time else None,
        "trainings": [_training(training) for training in trainings],
        "stages": [_stage(stage) for stage in facts.stages],
        "environment": facts.environment,
        "record": facts.record,
    }


def _training(training: TrainingView) -> dict[str, Any]:
    facts, comparison = training.facts, training.comparison
    return {
        "name": facts.name,
        "verdict": facts.verdict.as_dict() if facts.verdict else None,
        "settings": facts.settings,
        "results": facts.results,
        "data": facts.data,
        "curves": asdict(facts.curves),
        "evaluation": facts.evaluation,
        "ratings": list(facts.ratings),
        "benchmarks": list(facts.benchmarks),
        "note": facts.note,
        "confusion": {name: asdict(matrix) for name, matrix in training.confusions.items()},
        "errors": [_row_list(found, comparison) for found in training.errors if comparison],
        "slices": [_slice(part) for parts in training.slices.values() for part in parts],
    }


def _stage(stage: StageFacts) -> dict[str, Any]:
    content = asdict(stage)
    figures = content.pop("figures")
    return {**content, **dict.fromkeys(FIGURES), **figures}


def _row_list(found: RowList, comparison: RowComparison) -> dict[str, Any]:
    places = [{"file": comparison.rows[i].file, "line": comparison.rows[i].line} for i in found.rows]
    return {"title": found.title, "note": found.note, "rows": places}


def _slice(part: Slice) -> dict[str, Any]:
    models = {name: {"value": mean, "interval": interval} for name, (mean, interval) in part.results.items()}
    return {"kind": part.kind, "name": part.name, "rows": part.rows, "slices": part.slices, "models": models}
