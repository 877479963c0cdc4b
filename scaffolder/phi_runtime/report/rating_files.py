"""Sheets of ratings and their keys as files: a sheet goes to the raters, its key stays in gen-model/ratings/."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from phi_runtime.core.artifacts import read_json, write_json, write_text
from phi_runtime.core.errors import Conflict, DataError, Location, UsageError
from phi_runtime.core.project import ProjectFolder
from phi_runtime.report.judge import Ask, judge_sheet
from phi_runtime.report.project_facts import ProjectFacts, TrainingFacts
from phi_runtime.report.rating_sheet import (
    Sheet,
    as_csv,
    draw_sheet,
    judge_of,
    read_judgments,
    read_ratings,
    safe_cell,
    sheet_id,
)
from phi_runtime.report.stored_ratings import key_path, result_path


def write_sheet(
    project: ProjectFolder, facts: ProjectFacts, path: Path, models: tuple[str, str] | None, count: int
) -> Sheet:
    """Write a sheet of at most `count` rows to `path`, and its key.

    Args:
        models: Names of the models to compare; None: the last two of the comparison.

    Raises:
        PhiError: There is no comparison of such models.
    """
    _check_new(path)
    training, models = _compared(facts, models)
    sheet = draw_sheet(training.rows, models, count)
    key = key_path(project, sheet.id)
    key.parent.mkdir(parents=True, exist_ok=True)
    write_json(key, sheet.as_dict())
    write_text(path, f"\ufeff{as_csv(sheet)}")  # with the mark, Excel reads UTF-8
    return sheet


def judged_path(path: Path, sheet: Sheet) -> Path:
    """Return the path of a sheet that a judge fills in: rate.csv → rate.judge.csv.

    Raises:
        Conflict: It exists, and is not a part of the sheet that a judge did not complete.
    """
    out = path.with_suffix(".judge.csv")
    is_part = out.exists() and judge_of(out) and sheet_id(out) == sheet.id
    if not is_part or len(read_judgments(out, sheet)) == len(sheet.rows):
        _check_new(out)
    return out


def write_judged(sheet: Sheet, out: Path, judge: str, ask: Ask) -> None:
    """Let a language model fill in the rows of a sheet that are not judged at `out`.

    After a failure, those that are judged are kept: each reply may have been paid for.

    Raises:
        PhiError: The judge cannot be reached, or another one has filled in rows.
    """
    judgments = {}
    if out.exists():
        if judge_of(out) != safe_cell(judge):
            fix = f"name {judge_of(out)}, or delete the file"
            raise Conflict("another model has judged rows", where=Location(out), fix=fix)
        judgments = read_judgments(out, sheet)
    try:
        for index, judgment in judge_sheet(sheet, ask, judgments):
            judgments[index] = judgment
    finally:
        if judgments:
            write_text(out, f"\ufeff{as_csv(sheet, judge, judgments)}")


def _check_new(path: Path) -> None:
    if path.exists():
        fix = "move it, or choose another name"
        raise Conflict("the file exists and may be filled in", where=Location(path), fix=fix)


def _compared(facts: ProjectFacts, models: tuple[str, str] | None) -> tuple[TrainingFacts, tuple[str, str]]:
    measured = [training for training in facts.trainings if training.rows and training.evaluation]
    if not measured:
        raise DataError("no comparison of models exists", fix="run `phi-scaffold evaluate`")
    for training in measured:
        names = [model["name"] for model in (training.evaluation or {})["models"]]
        if models is None and len(names) >= 2:
            return training, (names[-2], names[-1])
        if models is not None and set(models) <= set(training.rows[0].models) and models[0] != models[1]:
            return training, models
    compared = ", ".join(f"`{name}`" for training in measured for name in training.rows[0].models)
    raise UsageError("the comparison does not have two such models", fix=f"name two of {compared}")


def evaluate_files(project: ProjectFolder, paths: Sequence[Path]) -> dict[str, Any]:
    """Return what the people say who have filled in the sheets at `paths`, one file each, and store it for the report.

    Raises:
        DataError: A file is not a sheet of this project, a cell is not a rating, or nothing is rated.
    """
    from phi_runtime.report.rating import evaluate_ratings  # imports numpy

    ids = {path: sheet_id(path) for path in paths}
    first = ids[paths[0]]
    if other := next((path for path in paths if ids[path] != first), None):
        raise DataError(f"the sheet is not that of {paths[0]}", where=Location(other), fix="evaluate each sheet alone")
    sheet = read_key(project, paths[0])
    judges = {path: name for path in paths if (name := judge_of(path))}
    people = {path: read_ratings(path, sheet) for path in paths if path not in judges}
    if empty := next((path for path, ratings in people.items() if not ratings), None):
        raise DataError("no row is rated", where=Location(empty), fix="fill in `rating A` and `rating B`, or `better`")
    judged = [(name, read_judgments(path, sheet)) for path, name in judges.items()]
    result = evaluate_ratings(sheet, list(people.values()), judged)
    write_json(result_path(project, sheet.id), result)
    return result


def read_key(project: ProjectFolder, path: Path) -> Sheet:
    """Return the sheet that was drawn for the file at `path`."""
    key = key_path(project, sheet_id(path))
    try:
        return Sheet.from_dict(read_json(key))
    except (OSError, ValueError, KeyError, TypeError):
        fix = f"restore {project.shown(key)}, or draw a new sheet with `phi-scaffold report --sheet FILE`"
        raise DataError("the key of the sheet is missing", where=Location(path), fix=fix) from None
