"""Differences between two runs: settings, versions, data and scores."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pydantic import ValidationError

from phi_runtime.config.schema import Workflow
from phi_runtime.core.artifacts import read_json
from phi_runtime.evaluation.intervals import Difference, compare
from phi_runtime.evaluation.row_results import RowResult
from phi_runtime.evaluation.summary import comparable_scores
from phi_runtime.report.history import MainScore, RecordedEvaluation, RecordedRun


@dataclass(frozen=True)
class ValueChange:
    """A value that differs; `before` or `after` is None where it is absent."""

    key: str
    before: Any
    after: Any


@dataclass(frozen=True)
class ScoreChange:
    """One model of two runs on the rows that both measured.

    Attributes:
        training: Training pass.
        before, after: Main score of the model in each run, on all rows of that run.
        shared_rows: Rows with the same prompt and reference in both.
        difference: The second run compared with the first on the shared rows; None without any.
    """

    training: str
    model: str
    before: MainScore
    after: MainScore
    shared_rows: int
    difference: Difference | None

    def as_dict(self) -> dict[str, Any]:
        difference = self.difference
        return {
            "training": self.training,
            "model": self.model,
            "before": self.before.as_dict(),
            "after": self.after.as_dict(),
            "shared_rows": self.shared_rows,
            "versus": {**asdict(difference), "outcome": difference.outcome} if difference else None,
        }


@dataclass(frozen=True)
class RunDifferences:
    """Differences of a run `after` from a run `before`."""

    before: RecordedRun
    after: RecordedRun
    settings: list[ValueChange]
    environment: list[ValueChange]
    data: list[ValueChange]
    scores: list[ScoreChange]

    def as_dict(self) -> dict[str, Any]:
        return {
            "before": self.before.id,
            "after": self.after.id,
            "settings": [asdict(change) for change in self.settings],
            "environment": [asdict(change) for change in self.environment],
            "data": [asdict(change) for change in self.data],
            "scores": [change.as_dict() for change in self.scores],
        }


def compare_runs(before: RecordedRun, after: RecordedRun) -> RunDifferences:
    """Return the differences of the run `after` from the run `before`."""
    return RunDifferences(
        before,
        after,
        changes(flattened(before.config), flattened(after.config)),
        changes(_environment(before), _environment(after)),
        changes(inputs_of(before), inputs_of(after)),
        [change for pair in _pairs(before.evaluations, after.evaluations) for change in _score_changes(*pair)],
    )


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[ValueChange]:
    """Return the keys whose values differ, in the order of `before`, with those that only `after` has at the end."""
    keys = {**before, **after}
    pairs = ((key, before.get(key), after.get(key)) for key in keys)
    return [ValueChange(key, old, new) for key, old, new in pairs if old != new]


def flattened(value: Any, path: str = "") -> dict[str, Any]:
    """Return the settings of a config by dotted path, as `--set` takes them; data configs have their names."""
    if isinstance(value, list) and value and all(isinstance(item, dict) and "name" in item for item in value):
        value = {item["name"]: item for item in value}
    if not isinstance(value, dict) or not value:
        return {path: value}
    inner = (flattened(item, f"{path}.{key}" if path else str(key)) for key, item in value.items())
    return {key: item for settings in inner for key, item in settings.items()}


def inputs_of(run: RecordedRun) -> dict[str, Any]:
    """Return the inputs of a run next to its settings: digests of base model, data files and functions, rows, and the commit."""
    base, git = run.record.get("base_model") or {}, run.record.get("git") or {}
    found = {
        "base model": base.get("content"),
        "base model commit": base.get("commit"),
        "git commit": git.get("commit"),
        "uncommitted changes": git.get("changed"),
    }
    for data in run.record.get("data", []):
        found |= {file["file"]: f"sha256 {file['sha256']}" for file in data["files"]}
    found |= {file["file"]: f"sha256 {file['sha256']}" for file in run.record.get("functions", [])}
    return found | _rows(run)


def _rows(run: RecordedRun) -> dict[str, int]:
    """Return the rows of each data config and of each side of the split, from the data reports of a run."""
    rows: dict[str, int] = {}
    for file in sorted(run.folder.glob("*data_report.json")):
        try:
            report = read_json(file)
            rows |= {f"rows of {data['name']}": data["rows"]["kept"] for data in report["datasets"]}
            sides = ("training", "validation", "test")
            rows |= {f"{side} rows": report["splits"][side]["rows"] for side in sides if report["splits"].get(side)}
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return rows


def _environment(run: RecordedRun) -> dict[str, Any]:
    versions = run.environment.get("versions", {})
    machine = {key: value for key, value in run.environment.items() if key != "versions"}
    threads = {
        f"{words} of {stage}": output["facts"][fact]
        for stage, output in run.outputs.items()
        for fact, words in (("torch_threads", "threads"), ("fewest_threads", "fewest threads"))
        if output["facts"].get(fact)
    }
    return {**machine, **threads, **versions}


def _pairs(
    before: Sequence[RecordedEvaluation], after: Sequence[RecordedEvaluation]
) -> list[tuple[RecordedEvaluation, RecordedEvaluation]]:
    """Return the evaluations of the same training; if each run has one, these."""
    if len(before) == len(after) == 1:
        return [(before[0], after[0])]
    return [(old, new) for old in before for new in after if old.name == new.name]


def _score_changes(before: RecordedEvaluation, after: RecordedEvaluation) -> list[ScoreChange]:
    earlier = {score.model: score for score in before.scores}
    task = after.content["task"]
    shared = _shared_rows(before.rows, after.rows) if task == before.content["task"] else []
    found = []
    for score in after.scores:
        name = score.model
        if name in earlier:
            measured = [row for row in shared if all(name in side.models for side in row)]
            difference = _difference(task, measured, name) if measured else None
            found.append(ScoreChange(after.name, name, earlier[name], score, len(measured), difference))
    return found


def _difference(task: str, rows: Sequence[tuple[RowResult, RowResult]], model: str) -> Difference:
    references = [row.reference for row, _ in rows]
    before, after = (
        comparable_scores(task, [pair[side].models[model] for pair in rows], references) for side in (0, 1)
    )
    return compare(before, after)


def _shared_rows(before: Sequence[RowResult], after: Sequence[RowResult]) -> list[tuple[RowResult, RowResult]]:
    """Return the rows that both evaluations measured: with the same prompt and reference; free text with place and length."""
    unmatched = defaultdict(list)
    for row in before:
        unmatched[_identity(row)].append(row)
    pairs = []
    for row in after:
        if same := unmatched[_identity(row)]:
            pairs.append((same.pop(0), row))
    return pairs


def _identity(row: RowResult) -> tuple[Any, ...]:
    if row.prompt is None:
        return row.file, row.line, max((measured.tokens for measured in row.models.values()), default=0)
    return row.prompt, row.reference


def chosen_config(run: RecordedRun) -> dict[str, Any]:
    """Return the config of a run without defaults; all of it if it is of another version."""
    config = {key: value for key, value in run.config.items() if key != "evaluation"}
    try:
        return Workflow.model_validate(config).model_dump(mode="json", exclude_defaults=True)
    except ValidationError:
        return config
