"""Which columns a data file has, and which of them is the answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from phi_runtime.data.rows import Format, Row, read_rows
from phi_runtime.errors import DataError, Location

ANSWER_NAMES = (
    "completion",
    "answer",
    "output",
    "response",
    "target",
    "label",
    "summary",
    "tone",
    "sentiment",
    "category",
    "class",
)


@dataclass(frozen=True)
class Columns:
    """The prompt's columns and the answer's. `labels` are the distinct answers when there are few, else empty."""

    inputs: tuple[str, ...]
    answer: str
    rows: int
    labels: tuple[str, ...]


def column_names(path: Path, format: Format) -> list[str]:
    """The columns of the first row. Raises DataError as `read_rows` does."""
    for row in read_rows(path, format):
        return list(row.values)
    raise DataError("the data file has no row", where=Location(path), fix="put at least one row into it")


def find_columns(path: Path, chosen: Sequence[str] = ()) -> Columns:
    """Reads the whole file and says which columns are asked and which is the answer.

    `chosen` are column names with the answer last; without them, the answer is the column with a usual name for one, else the
    one of two columns that holds fewer different values. Raises DataError for a broken row, and when no answer can be told.
    """
    rows = list(read_rows(path))
    if not rows:
        raise DataError("the data file has no row", where=Location(path), fix="put at least one row into it")
    names = list(rows[0].values)
    if "messages" in names or "conversations" in names:
        raise DataError(
            "chat rows (`messages`, `conversations`) are not read yet",
            where=Location(path),
            fix="give one column for each part",
        )
    for name in chosen:
        if name not in names:
            raise DataError(
                f"there is no column `{name}`", where=Location(path), fix=f"the columns are {', '.join(names)}"
            )
    answer = chosen[-1] if chosen else _answer(path, names, rows)
    inputs = tuple(chosen[:-1]) or tuple(n for n in names if n != answer)
    for row in rows:
        check_row(path, row, (*inputs, answer))
    values = {str(row.values[answer]).strip() for row in rows}
    few = len(values) <= max(2, min(50, len(rows) // 5))
    return Columns(inputs, answer, len(rows), tuple(sorted(values)) if few else ())


def check_row(path: Path, row: Row, columns: Sequence[str]) -> None:
    """Raises DataError when a column is absent from `row`, or holds no text or number."""
    where = Location(path, row.line)
    for name in columns:
        if name not in row.values:
            raise DataError(
                f"this row has no column `{name}`", where=where, fix=f"it has {', '.join(row.values) or 'none'}"
            )
        value: Any = row.values[name]
        if isinstance(value, bool) or not isinstance(value, str | int | float) or value != value:
            raise DataError(
                f"`{name}` holds {value!r:.40} where text is expected", where=where, fix="mend or remove that row"
            )
        if not str(value).strip():
            raise DataError(f"`{name}` is empty in this row", where=where, fix="fill or remove that row")


def _answer(path: Path, names: list[str], rows: list[Row]) -> str:
    if len(names) < 2:
        raise DataError(
            f"one column (`{''.join(names)}`) is not enough: a row needs what is asked and the answer",
            where=Location(path),
        )
    folded = {n.casefold(): n for n in names}
    for usual in ANSWER_NAMES:
        if usual in folded:
            return folded[usual]
    if len(names) == 2:
        first, second = ({str(r.values.get(n)) for r in rows} for n in names)
        return names[0] if len(first) < len(second) else names[1]
    raise DataError(
        f"cannot tell which of the columns {', '.join(names)} is the answer",
        where=Location(path),
        fix="name them, the answer last: --columns question,context,reply",
    )
