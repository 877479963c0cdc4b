"""Select the rows of a data config from its files: the slice of its split, then its filters."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from phi_runtime.config.file_formats import format_of
from phi_runtime.config.schema import LoadDataset
from phi_runtime.core.errors import DataError, Location
from phi_runtime.data.files import no_rows
from phi_runtime.data.rows import BadRow, ReadOptions, Row, scan

_SLICE = re.compile(r"\[(-?\d+)?(%)?:(-?\d+)?(%)?\]$")


class SelectedRow(NamedTuple):
    """A row with its file, and its index among all rows of all files."""

    path: Path
    number: int
    row: Row

    @property
    def where(self) -> Location:
        return Location(self.path, self.row.line)


def read_options(load: LoadDataset, path: Path) -> ReadOptions:
    """Return how to read a file of `load`; the format of a downloaded Hub data set follows from its suffix."""
    return ReadOptions(
        format=load.format or format_of(path),
        sep=load.sep,
        skipinitialspace=load.skipinitialspace,
        sample_by=load.sample_by or "line",
        field=load.field,
        encoding=load.encoding,
        header=load.header,
        names=tuple(load.names) if load.names else None,
        sheet=load.sheet,
        column_mapping=tuple((load.column_mapping or {}).items()),
    )


def select(load: LoadDataset, files: Sequence[Path]) -> Iterator[SelectedRow | BadRow]:
    """Yield the rows that `load` selects, in the order of the files, including bad ones.

    Raises:
        DataError: as `scan`, and if no row is left.
    """
    # Only percentages and positions from the end need the number of all rows.
    start, stop = boundaries(load.split, _count(load, files) if _needs_count(load.split) else sys.maxsize)
    filters = load.col_filters or {}
    number = read = chosen = 0
    for path in files:
        if number >= stop:
            break
        options = read_options(load, path)
        for row in scan(path, options):
            if number >= stop:
                break
            number += 1
            if number <= start:
                continue
            read += 1
            if isinstance(row, BadRow):
                chosen += 1
                yield row
                continue
            kept = _fits(path, row, filters, from_text=options.format in ("csv", "xlsx")) if filters else True
            if isinstance(kept, BadRow):
                chosen += 1
                yield kept
            elif kept:
                chosen += 1
                yield SelectedRow(path, number - 1, row)
    if not chosen:
        raise _nothing(load, files, number, read)


def _needs_count(split: str) -> bool:
    match = _SLICE.search(split)
    return match is not None and ("%" in match[0] or "-" in match[0])


def _count(load: LoadDataset, files: Sequence[Path]) -> int:
    return sum(1 for path in files for _ in scan(path, read_options(load, path)))


def _nothing(load: LoadDataset, files: Sequence[Path], number: int, read: int) -> DataError:
    where = Location(files[0])
    if read:
        filters = ", ".join(f"{name} = {value!r}" for name, value in (load.col_filters or {}).items())
        what = f"none of {read} rows has {filters}"
        return DataError(what, where=where, fix="check the values in load_dataset_config.col_filters")
    if number or _SLICE.search(load.split):
        what = f"`{load.split}` selects none of the {_count(load, files)} rows"
        return DataError(what, where=where, fix="change the boundaries in load_dataset_config.split")
    return no_rows(files[0])


def boundaries(split: str, rows: int) -> tuple[int, int]:
    """Return the first row and the end of the slice in `split`, such as [:90%], [100:200] or [-50:], of `rows` rows.

    Percentages are rounded to the nearest row, and one % sign applies to both boundaries, as in Hugging Face's datasets
    5.2 (`arrow_reader.ReadInstruction`, rounding "closest").

    Raises:
        DataError: a boundary exceeds 100 percent.
    """
    match = _SLICE.search(split)
    if not match:
        return 0, rows
    percent = bool(match[2] or match[4])

    def place(written: str | None, default: int) -> int:
        if written is None:
            return default
        place = int(written)
        if percent and abs(place) > 100:
            raise DataError(f"`{split}` exceeds 100 %", fix="use boundaries from -100% to 100%")
        place = round(place * rows / 100) if percent else place
        return min(place if place >= 0 else max(rows + place, 0), rows)

    return place(match[1], 0), place(match[3], rows)


def _fits(path: Path, row: Row, filters: dict[str, Any], *, from_text: bool) -> bool | BadRow:
    for name in filters:
        if name not in row.values:
            what = f"this row has no column `{name}` to filter by"
            return BadRow(Location(path, row.line), what, f"it has {', '.join(row.values) or 'none'}")
    return all((_read_as(row.values[n], v) if from_text else row.values[n]) == v for n, v in filters.items())


def _read_as(cell: str, value: Any) -> Any:
    """Convert a cell of a CSV file to the type of the filter's `value`, like the reader that Olive uses."""
    if isinstance(value, bool):
        return {"true": True, "false": False}.get(cell.strip().lower())
    if isinstance(value, int | float):
        try:
            return float(cell)
        except ValueError:
            return None
    return cell
