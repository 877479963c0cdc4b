"""Checks of the metrics that evaluation.json defines: each error at its place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from phi_runtime.config.confusions import unknown_labels
from phi_runtime.config.tasks import METRICS, TASKS
from phi_runtime.pipeline.load import check_file, load_config
from tests.conftest import MakeProject


def errors(path: Path) -> list[tuple[str, str, str]]:
    """Key, rule and suggestion of each error."""
    return [(f.key, f.rule, f.suggestion) for f in check_file(path).findings if f.severity == "error"]


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"cost": {"fear→joy": 5, "joy -> fear": 0.5}}, None),
        ({"cost": {"fear": 5}}, ("cost.fear", "unknown-value", "")),
        ({"cost": {"→joy": 5}}, ("cost.→joy", "unknown-value", "")),
        ({"cost": {"joy→joy": 5}}, ("cost.joy→joy", "contradiction", "")),
        ({"cost": {"fear→joy": 5, "fear->joy": 5}}, ("cost.fear->joy", "contradiction", "")),
        ({"cost": {"fear→joy": -1}}, ("cost.fear→joy", "out-of-range", "")),
        ({"cost": {"fear→joy": "5"}}, ("cost.fear→joy", "wrong-type", "5")),
        ({"cost": {"a→b": 5}, "task": "chat"}, ("cost", "contradiction", "")),
        ({"combined": {"s": {"accuracy": 0.7, "macro_f1": 0.3}}}, None),
        ({"combined": {"s": {"acuracy": 1}}}, ("combined.s.acuracy", "unknown-reference", "accuracy")),
        ({"combined": {"s": {"rouge_l": 1}}}, ("combined.s.rouge_l", "unknown-reference", "")),
        ({"combined": {"s": {"mean_cost": 1}}}, ("combined.s.mean_cost", "missing-key", "")),
        ({"combined": {"s": {"mean_cost": 1}}, "cost": {"a→b": 2}}, None),
        ({"combined": {"s": {}}}, ("combined.s", "out-of-range", "")),
        ({"combined": {"accuracy": {"macro_f1": 1}}}, ("combined.accuracy", "duplicate-name", "")),
        ({"passes": {"t": {"cost": {"joy": 5}}}}, ("passes.t.cost.joy", "unknown-value", "")),
        ({"passes": {"t": {"task": "chat"}}, "cost": {"a→b": 5}}, ("cost", "contradiction", "")),
        ({"passes": {"t": {"task": "chat", "cost": {}}}, "cost": {"a→b": 5}}, None),
        ({"passes": {"t": {"combined": {"s": {"f1": 1}}}}}, ("passes.t.combined.s.f1", "unknown-reference", "")),
    ],
)
def test_metrics_of_a_project(tmp_path: Path, settings: dict[str, Any], error: tuple[str, str, str] | None) -> None:
    path = tmp_path / "evaluation.json"
    path.write_text(json.dumps({"task": "classification", **settings}), encoding="utf-8")
    found = errors(path)
    assert [e[:2] for e in found] == ([error[:2]] if error else [])
    if error and error[2]:
        assert found[0][2] == error[2]


def test_any_metric_may_come_from_hooks(tmp_path: Path) -> None:
    path = tmp_path / "evaluation.json"
    path.write_text('{"task": "classification", "combined": {"s": {"politeness": 1}}}', encoding="utf-8")
    (tmp_path / "hooks.py").write_text("def metrics(predictions, references): ...\n", encoding="utf-8")
    assert errors(path) == []


def test_a_label_that_no_row_has_is_found_before_a_run(make_project: MakeProject) -> None:
    project = make_project()
    path = project.config.with_name("evaluation.json")
    path.write_text('{\n "task": "classification",\n "cost": {\n  "fear→jyo": 5,\n  "fear->joy": 5}}', encoding="utf-8")
    found = [f for f in load_config(project.config).findings if f.severity == "error"]
    assert [(f.where.path.name, f.where.line, f.where.column) for f in found] == [("evaluation.json", 4, 3)]  # type: ignore[union-attr]
    assert (found[0].key, found[0].suggestion) == ("cost.fear→jyo", "fear→joy")
    hooks = "def transform(row):\n    return row\n"  # which may change labels
    project.config.with_name("hooks.py").write_text(hooks, encoding="utf-8")
    assert load_config(project.config).valid


def test_the_suggestion_for_a_label_changes_no_other_that_contains_it() -> None:
    (found,) = unknown_labels(["joyful->joy"], ["joyful", "jay"])
    assert found.suggestion == "joyful->jay"


def test_the_names_of_metrics_are_those_that_are_computed() -> None:
    from phi_runtime.evaluation.row_statistics import score

    assert {task: tuple(score(task, ["a"], ["a"])) for task in TASKS} == METRICS
