"""The content of a report as JSON, documented in docs/json.md."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from phi_runtime.pipeline.run_record import FIGURES
from phi_runtime.report.project_facts import ProjectFacts, StageFacts
from phi_runtime.report.row_views import Comparison, RowList, Slice, TrainingView


def as_json(facts: ProjectFacts, trainings: Sequence[TrainingView]) -> dict[str, Any]:
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


def _row_list(found: RowList, comparison: Comparison) -> dict[str, Any]:
    places = [{"file": comparison.rows[i].file, "line": comparison.rows[i].line} for i in found.rows]
    return {"title": found.title, "note": found.note, "rows": places}


def _slice(part: Slice) -> dict[str, Any]:
    models = {name: {"value": mean, "interval": interval} for name, (mean, interval) in part.results.items()}
    return {"kind": part.kind, "name": part.name, "rows": part.rows, "slices": part.slices, "models": models}
