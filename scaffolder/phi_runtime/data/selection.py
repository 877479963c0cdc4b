"""Which rows of its files a data config means: its split's slice, then its filters."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from phi_runtime.data.rows import Row, read_rows
from phi_runtime.errors import DataError, Location
from phi_runtime.workflow.schema import LoadDataset

_SLICE = re.compile(r"\[(-?\d+)?(%)?:(-?\d+)?(%)?\]$")

Placed = tuple[Path, Row]


def select_rows(load: LoadDataset, files: Sequence[Path]) -> list[Placed]:
    """The rows that `load` means, each with the file that it comes from, in the order of the files.

    Raises DataError as `read_rows` does, for a filter on a column that a row does not have, and when no row is left.
    """
    placed = [(path, row) for path in files for row in read_rows(path, load.data_name)]
    if not placed:
        raise DataError("the data file has no row", where=Location(files[0]), fix="put at least one row into it")
    start, stop = boundaries(load.split, len(placed))
    chosen = placed[start:stop]
    if not chosen:
        raise DataError(
            f"`{load.split}` leaves none of the {len(placed)} rows",
            where=Location(files[0]),
            fix="choose other boundaries in load_dataset_config.split",
        )
    filters = load.col_filters or {}
    fitting = [(path, row) for path, row in chosen if _fits(path, row, filters, from_text=load.data_name == "csv")]
    if not fitting:
        wanted = ", ".join(f"{name} = {value!r}" for name, value in filters.items())
        raise DataError(
            f"none of {len(chosen)} rows holds {wanted}",
            where=Location(files[0]),
            fix="check the values in load_dataset_config.col_filters",
        )
    return fitting


def boundaries(split: str, rows: int) -> tuple[int, int]:
    """First row and end of the slice behind `split`, such as [:90%], [100:200] or [-50:], out of `rows` rows.

    Percentages go to the nearest row, and one % sign means both boundaries, as in Hugging Face's datasets 5.2
    (`arrow_reader.ReadInstruction`, rounding "closest"). Raises DataError for more than 100 percent.
    """
    found = _SLICE.search(split)
    if not found:
        return 0, rows
    percent = bool(found[2] or found[4])

    def place(written: str | None, default: int) -> int:
        if written is None:
            return default
        place = int(written)
        if percent and abs(place) > 100:
            raise DataError(f"`{split}` asks for more than 100 %", fix="choose boundaries from -100% to 100%")
        place = round(place * rows / 100) if percent else place
        return min(place if place >= 0 else max(rows + place, 0), rows)

    return place(found[1], 0), place(found[3], rows)


def _fits(path: Path, row: Row, filters: dict[str, Any], *, from_text: bool) -> bool:
    for name in filters:
        if name not in row.values:
            raise DataError(
                f"this row has no column `{name}` to filter by",
                where=Location(path, row.line),
                fix=f"it has {', '.join(row.values) or 'none'}",
            )
    return all((_read_as(row.values[n], v) if from_text else row.values[n]) == v for n, v in filters.items())


def _read_as(cell: str, wanted: Any) -> Any:
    """A cell of a CSV file, which is text, in the type of the filter's value, as the reader that Olive uses has it."""
    if isinstance(wanted, bool):
        return {"true": True, "false": False}.get(cell.strip().lower())
    if isinstance(wanted, int | float):
        try:
            return float(cell)
        except ValueError:
            return None
    return cell
