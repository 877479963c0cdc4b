"""Rows of a data file, each known by its line, so that a fault can be pointed at."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from phi_runtime.errors import DataError, Location

Format = Literal["json", "csv"]
FORMATS: dict[str, Format] = {".jsonl": "json", ".ndjson": "json", ".json": "json", ".csv": "csv"}


@dataclass(frozen=True)
class Row:
    """One row: the values by column, and the line (from 1) on which it starts; 0 inside a JSON array."""

    values: dict[str, Any]
    line: int


def format_of(path: Path) -> Format:
    """The format that a file's ending names. Raises DataError for an ending that is not known."""
    try:
        return FORMATS[path.suffix.lower()]
    except KeyError:
        raise DataError(
            f"cannot tell the format of a `{path.suffix or path.name}` file",
            where=Location(path),
            fix=f"give a file that ends in {', '.join(FORMATS)}",
        ) from None


def read_rows(path: Path, format: Format | None = None) -> Iterator[Row]:
    """The rows of a JSON Lines, JSON (array of objects) or CSV file, in order.

    Raises DataError, with the line, for a file that is absent, empty or not UTF-8, and for the first broken row.
    """
    format = format or format_of(path)
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise DataError("there is no such data file", where=Location(path), fix="check the path") from None
    except IsADirectoryError:
        raise DataError("this is a folder, not a data file", where=Location(path), fix="give one file") from None
    except UnicodeDecodeError as e:
        line = e.object[: e.start].count(b"\n") + 1
        raise DataError(
            "this line is not UTF-8 text", where=Location(path, line), fix="save the file as UTF-8"
        ) from None
    except OSError as e:
        raise DataError(f"cannot be read: {e.strerror}", where=Location(path)) from None
    if not text.strip():
        raise DataError("the data file is empty", where=Location(path), fix="put at least one row into it")
    if format == "csv":
        return _csv_rows(path, text)
    return _array_rows(path, text) if text.lstrip()[0] == "[" else _json_lines(path, text)


def _json_lines(path: Path, text: str) -> Iterator[Row]:
    # Not str.splitlines: it also breaks at U+2028 and the like, which may stand inside a JSON string.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            values = json.loads(line)
        except ValueError as e:
            column = getattr(e, "colno", 1)
            message = f"this row is not JSON ({getattr(e, 'msg', e)})"
            raise DataError(message, where=Location(path, number, column), fix="mend or remove that row") from None
        yield Row(_object(values, Location(path, number)), number)


def _array_rows(path: Path, text: str) -> Iterator[Row]:
    try:
        values = json.loads(text)
    except json.JSONDecodeError as e:
        raise DataError(
            f"the JSON is broken here ({e.msg})", where=Location(path, e.lineno, e.colno), fix="mend the JSON there"
        ) from None
    for position, value in enumerate(values, start=1):
        yield Row(_object(value, Location(path), f"item {position} of the array"), 0)


def _object(value: Any, where: Location, name: str = "this row") -> dict[str, Any]:
    if not isinstance(value, dict):
        raise DataError(
            f"{name} is not a JSON object with column names", where=where, fix='write rows as {"column": "text", …}'
        )
    return value


def _csv_rows(path: Path, text: str) -> Iterator[Row]:
    csv.field_size_limit(2**31 - 1)
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    start = 1
    try:
        header = next(reader)
        for fields in reader:
            line, start = start + 1, reader.line_num
            if not fields:
                continue
            if len(fields) != len(header):
                raise DataError(
                    f"this row has {len(fields)} fields, and the header {len(header)}",
                    where=Location(path, line),
                    fix="quote fields that hold a comma or a line break",
                )
            yield Row(dict(zip(header, fields, strict=True)), line)
    except csv.Error as e:
        raise DataError(
            f"this row is not CSV ({e})", where=Location(path, reader.line_num), fix="mend or remove that row"
        ) from None
