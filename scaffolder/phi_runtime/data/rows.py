"""Read the rows of a data file one by one, each with its line number, so that errors can point at it.

A row that cannot be read is a `BadRow`, and reading continues; a file that cannot be read further raises DataError.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from phi_runtime.config.file_formats import SampleBy, format_of
from phi_runtime.core.errors import DataError, Location, MissingDependency
from phi_runtime.data.encodings import UTF8
from phi_runtime.data.files import (
    LIMIT_BYTES,
    empty_file,
    encoding_of,
    first_byte,
    head,
    lines,
    missing_file,
    opened,
    require_file,
)
from phi_runtime.data.json_rows import decoded, json_form, json_rows
from phi_runtime.data.json_window import TOO_LONG
from phi_runtime.data.row import BadRow, ReadOptions, Row
from phi_runtime.data.tables import (
    Record,
    csv_records,
    default_sep,
    detect_sep,
    detect_spaces,
    separator_line,
    table_rows,
)
from phi_runtime.data.workbook import workbook_records

__all__ = ["BadRow", "ReadOptions", "Row", "original_names", "read_rows", "resolve", "scan"]


def read_rows(path: Path, reading: ReadOptions | None = None) -> Iterator[Row]:
    """Yield the rows of a file. Raises DataError, with the line, for the first bad row, and as `scan` does."""
    for row in scan(path, reading):
        if isinstance(row, BadRow):
            raise row.error
        yield row


def scan(path: Path, reading: ReadOptions | None = None) -> Iterator[Row | BadRow]:
    """Yield the rows of a data file of any format, including bad ones.

    Memory use does not grow with the file.

    Raises:
        DataError: the file is missing or empty, or cannot be read further.
        MissingDependency: a package for its format is not installed.
    """
    require_file(path)
    reading = resolve(path, reading or ReadOptions(format_of(path)))
    rows = _rows(path, reading)
    yield from _renamed(path, rows, dict(reading.column_mapping)) if reading.column_mapping else rows


def _rows(path: Path, reading: ReadOptions) -> Iterator[Row | BadRow]:
    if reading.format == "parquet":
        yield from _parquet_rows(path)
    elif reading.format in ("csv", "xlsx"):
        yield from table_rows(path, records(path, reading), reading)
    else:
        yield from _text_rows(path, reading, reading.encoding or UTF8)


def records(path: Path, reading: ReadOptions) -> Iterator[Record | BadRow]:
    """Yield the records of a table, its header among them. Raises as `scan`."""
    if reading.format == "xlsx":
        yield from workbook_records(path, reading.sheet)
        return
    encoding = reading.encoding or UTF8
    skip = reading.header in ("infer", None) and has_separator_line(path, encoding)
    with opened(path, encoding) as stream:
        if not first_byte(stream):
            raise empty_file(path)
        yield from csv_records(path, stream, reading, skip_first=skip)


def _renamed(path: Path, rows: Iterator[Row | BadRow], mapping: Mapping[str, str]) -> Iterator[Row | BadRow]:
    for row in rows:
        if isinstance(row, BadRow):
            yield row
            continue
        values = {mapping.get(name, name): value for name, value in row.values.items()}
        if len(values) == len(row.values):
            yield Row(values, row.line)
        else:
            twice = next(new for new in mapping.values() if new in row.values)
            what = f"this row has the column `{twice}`, and `column_mapping` gives its name to another one"
            yield BadRow(Location(path, row.line), what, "choose another name in `column_mapping`")


@lru_cache(maxsize=32)
def original_names(path: Path, reading: ReadOptions) -> dict[str, str]:
    """Return the names in the file of the columns that `reading` renames, by their new names."""
    originals = {new: old for old, new in reading.column_mapping}
    if reading.names and reading.header not in ("infer", None):
        plain = next(read_rows(path, replace(reading, names=None, column_mapping=())), None)
        originals |= dict(zip(reading.names, plain.values if plain else (), strict=False))
    return {new: old for new, old in originals.items() if new != old}


def _text_rows(path: Path, reading: ReadOptions, encoding: str) -> Iterator[Row | BadRow]:
    with opened(path, encoding) as stream:
        if not first_byte(stream):
            raise empty_file(path)
        if reading.format == "json":
            yield from json_rows(path, stream, json_form(path, encoding, reading.field), encoding)
        else:
            yield from _texts(path, stream, reading.sample_by)


def resolve(path: Path, reading: ReadOptions) -> ReadOptions:
    """Return `reading` with the encoding, and how fields of a CSV file are separated, detected if they are None.

    Raises:
        DataError: as `scan`.
    """
    if reading.format in ("parquet", "xlsx"):
        return reading
    encoding = reading.encoding or encoding_of(path)
    reading = replace(reading, encoding=encoding)
    if reading.format != "csv" or (reading.sep is not None and reading.skipinitialspace is not None):
        return reading
    start, complete = head(path, encoding)
    sep = reading.sep or detect_sep(start, complete, default_sep(path))
    spaces = detect_spaces(start, sep) if reading.skipinitialspace is None else reading.skipinitialspace
    return replace(reading, sep=sep, skipinitialspace=spaces)


def has_separator_line(path: Path, encoding: str) -> bool:
    """Return True if the first line of a CSV file is `sep=…`."""
    return separator_line(head(path, encoding, 32)[0]) is not None


def _texts(path: Path, stream: io.BufferedReader, sample_by: SampleBy) -> Iterator[Row | BadRow]:
    """Yield each line, paragraph (separated by empty lines) or file as {"text": …}, like Hugging Face's `text` reader.

    A paragraph or file is bad if one of its lines is.
    """
    parts: list[str] = []
    bad: BadRow | None = None
    start, previous, size = 1, 0, 0
    for number, line in lines(stream):
        text = decoded(line, path, number)
        if sample_by == "line":
            yield text if isinstance(text, BadRow) else Row({"text": text.rstrip("\r\n")}, number)
            continue
        blank_lines = number - previous - 1
        if parts and blank_lines and sample_by == "paragraph":
            yield bad or _joined(path, start, parts, size)
            parts, size, bad = [], 0, None
        if not parts:
            start, blank_lines = number, 0
        if isinstance(text, BadRow):
            bad, text = bad or text, ""
        size, previous = size + blank_lines + len(text), number
        if size <= LIMIT_BYTES:  # a longer one is refused at its end
            parts += ["\n" * blank_lines, text.replace("\r\n", "\n")]
    if parts:
        yield bad or _joined(path, start, parts, size)


def _joined(path: Path, start: int, parts: list[str], size: int) -> Row | BadRow:
    if size > LIMIT_BYTES:
        return BadRow(Location(path, start), TOO_LONG)
    return Row({"text": "".join(parts).rstrip("\r\n")}, start)


def _values(batch: Any) -> list[dict[str, Any] | None]:
    """Return the rows of an Arrow batch; None for one with a text that is not UTF-8, which Arrow does not check."""
    try:
        rows: list[dict[str, Any] | None] = batch.to_pylist()
    except UnicodeDecodeError:
        if len(batch) == 1:
            return [None]
        half = len(batch) // 2
        return _values(batch.slice(0, half)) + _values(batch.slice(half))
    return rows


def _parquet_rows(path: Path) -> Iterator[Row | BadRow]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise MissingDependency(
            "reading a Parquet file needs the package pyarrow",
            where=Location(path),
            fix="run `pip install pyarrow` in the environment of phi-scaffold",
        ) from None
    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=1024):
                for values in _values(batch):
                    number += 1
                    place = Location(path, number)
                    yield BadRow(place, "a text is not UTF-8") if values is None else Row(values, number)
    except FileNotFoundError:
        raise missing_file(path) from None
    except (pyarrow.ArrowException, ValueError, OSError) as e:  # ValueError: names that are not UTF-8
        raise DataError(
            f"the Parquet file cannot be read ({e})", where=Location(path), fix="download or write it again"
        ) from None
    if not number:
        raise empty_file(path)
