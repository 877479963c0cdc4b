"""Files of gen-model/ratings/: the key of each sheet, and what the people say who have filled it in."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from phi_runtime.core.artifacts import read_json
from phi_runtime.core.errors import DataError
from phi_runtime.core.project import RATINGS, ProjectFolder
from phi_runtime.evaluation.row_results import RowResult
from phi_runtime.report.rating_sheet import Sheet, is_drawn_from

_RESULT = ".result.json"


def stored_ratings(project: ProjectFolder, rows: Sequence[RowResult]) -> list[dict[str, Any]]:
    """Return the results of all sheets that have the answers in `rows`: those of earlier answers say nothing about these."""
    results = []
    for file in sorted((project.gen_model / RATINGS).glob(f"*{_RESULT}")) if rows else ():
        with suppress(OSError, ValueError, KeyError, TypeError, DataError):
            sheet = Sheet.from_dict(read_json(key_path(project, file.name.removesuffix(_RESULT))))
            if is_drawn_from(sheet, rows):
                results.append(read_json(file))
    return results


def key_path(project: ProjectFolder, sheet: str) -> Path:
    """Return the path of the key of a sheet. Raises DataError if `sheet` is not an id."""
    return _path(project, sheet, ".json")


def result_path(project: ProjectFolder, sheet: str) -> Path:
    """Return the path of the result of a sheet. Raises DataError if `sheet` is not an id."""
    return _path(project, sheet, _RESULT)


def _path(project: ProjectFolder, sheet: str, suffix: str) -> Path:
    if not sheet.isalnum():
        raise DataError("the id of the sheet is not valid", fix="keep the column `sheet`")
    return project.gen_model / RATINGS / f"{sheet}{suffix}"
