"""Which rows of its files a data config means: its split's slice, then its filters."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from phi_runtime.config.file_formats import format_of
from phi_runtime.config.schema import LoadDataset
from phi_runtime.core.errors import DataError, Location
from phi_runtime.data.rows import Broken, Reading, Row, scan

_SLICE = re.compile(r"\[(-?\d+)?(%)?:(-?\d+)?(%)?\]$")


@dataclass(frozen=True)
class Found:
    """A row, the file that it comes from, and its number from 0 among all rows of all files."""

    path: Path
    number: int
    row: Row

    @property
    def where(self) -> Location:
        return Location(self.path, self.row.line)


def reading_of(load: LoadDataset, path: Path) -> Reading:
    """How a file of `load` is read. What the hub's data sets were brought as tells its ending."""
    return Reading(load.format or format_of(path), load.sep, load.sample_by or "line")


def select(load: LoadDataset, files: Sequence[Path]) -> Iterator[Found | Broken]:
    """The rows that `load` means, in the order of the files; among them those that are broken.

    Raises DataError as `scan` does, and when no row is left.
    """
    # Only shares and places from the end take the number of all rows.
    start, stop = boundaries(load.split, _count(load, files) if _needs_count(load.split) else sys.maxsize)
    filters = load.col_filters or {}
    number = read = chosen = 0
    for path in files:
        if number >= stop:
            break
        for row in scan(path, reading_of(load, path)):
            if number >= stop:
                break
            number += 1
            if number <= start:
                continue
            read += 1
            if isinstance(row, Broken):
                chosen += 1
                yield row
                continue
            kept = _fits(path, row, filters, from_text=reading_of(load, path).format == "csv") if filters else True
            if isinstance(kept, Broken):
                chosen += 1
                yield kept
            elif kept:
                chosen += 1
                yield Found(path, number - 1, row)
    if not chosen:
        raise _nothing(load, files, number, read)


def _needs_count(split: str) -> bool:
    found = _SLICE.search(split)
    return found is not None and ("%" in found[0] or "-" in found[0])


def _count(load: LoadDataset, files: Sequence[Path]) -> int:
    return sum(1 for path in files for _ in scan(path, reading_of(load, path)))


def _nothing(load: LoadDataset, files: Sequence[Path], number: int, read: int) -> DataError:
    where = Location(files[0])
    if read:
        wanted = ", ".join(f"{name} = {value!r}" for name, value in (load.col_filters or {}).items())
        what = f"none of {read} rows holds {wanted}"
        return DataError(what, where=where, fix="check the values in load_dataset_config.col_filters")
    if number or _SLICE.search(load.split):
        what = f"`{load.split}` leaves none of the {_count(load, files)} rows"
        return DataError(what, where=where, fix="choose other boundaries in load_dataset_config.split")
    return DataError("the data file has no row", where=where, fix="put at least one row into it")


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


def _fits(path: Path, row: Row, filters: dict[str, Any], *, from_text: bool) -> bool | Broken:
    for name in filters:
        if name not in row.values:
            what = f"this row has no column `{name}` to filter by"
            return Broken(Location(path, row.line), what, f"it has {', '.join(row.values) or 'none'}")
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
