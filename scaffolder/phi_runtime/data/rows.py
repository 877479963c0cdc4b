"""Read the rows of a data file one by one, each with its line number, so that errors can point at it.

A row that cannot be read is a `BadRow`, and reading continues; a file that cannot be read further raises DataError.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from phi_runtime.config.file_formats import Format, SampleBy, format_of, unpacked_name
from phi_runtime.core.errors import DataError, Location, MissingDependency
from phi_runtime.data.files import LIMIT_BYTES, empty_file, first_byte, lines, missing_file, opened

_TOO_LONG = f"this row has more than {LIMIT_BYTES >> 20} MB"
_FIX = "fix or remove this row"
_UTF8 = "save the file as UTF-8"
_NOT_BLANK = re.compile(r"\S")
_LONGEST_WORD = 32  # of JSON outside a string: the end of the window may cut this much


@dataclass(frozen=True)
class ReadOptions:
    """Options for reading a file.

    Attributes:
        format: Its format.
        sep: Separator of a CSV file; None: by its suffix.
        sample_by: Unit of a text file.
        field: Key of a JSON object that holds the rows; None: the file is the array, or JSON Lines.
    """

    format: Format
    sep: str | None = None
    sample_by: SampleBy = "line"
    field: str | None = None


@dataclass(frozen=True)
class Row:
    """One row: values by column, and the line (from 1) on which it starts, or its number in a Parquet file."""

    values: dict[str, Any]
    line: int


@dataclass(frozen=True)
class BadRow:
    """A row that cannot be used: where it is, why, and how to fix it."""

    where: Location
    what: str
    fix: str = _FIX

    @property
    def error(self) -> DataError:
        return DataError(self.what, where=self.where, fix=self.fix)


def read_rows(path: Path, reading: ReadOptions | None = None) -> Iterator[Row]:
    """Yield the rows of a file. Raises DataError, with the line, for the first bad row, and as `scan` does."""
    for row in scan(path, reading):
        if isinstance(row, BadRow):
            raise row.error
        yield row


def scan(path: Path, reading: ReadOptions | None = None) -> Iterator[Row | BadRow]:
    """Yield the rows of a JSON Lines, JSON (array of objects), CSV, Parquet or text file, including bad ones.

    Memory use does not grow with the file.

    Raises:
        DataError: the file is missing or empty, or cannot be read further.
        MissingDependency: a package for its format is not installed.
    """
    reading = reading or ReadOptions(format_of(path))
    if reading.format == "parquet":
        yield from _parquet_rows(path)
        return
    with opened(path) as stream:
        start = first_byte(stream)
        if not start:
            raise empty_file(path)
        if reading.format == "csv":
            yield from _csv_rows(
                path, stream, reading.sep or ("\t" if unpacked_name(path).suffix.lower() == ".tsv" else ",")
            )
        elif reading.format == "text":
            yield from _texts(path, stream, reading.sample_by)
        elif reading.field:
            window = _Window(path, stream)
            _go_to_key(window, reading.field)
            yield from _array_rows(window)
        elif start == b"[":
            window = _Window(path, stream)
            yield from _array_rows(window)
            window.finish()
        else:
            yield from _json_lines(path, stream)


def _json_lines(path: Path, stream: io.BufferedReader) -> Iterator[Row | BadRow]:
    for number, line in lines(stream):
        where = Location(path, number)
        text = _decoded(line, where)
        if isinstance(text, BadRow):
            yield text
            continue
        try:
            value = json.loads(text.rstrip("\r\n"))  # else a truncated value is reported on the next line
        except ValueError as e:
            place = Location(path, number, getattr(e, "colno", 1))
            yield BadRow(place, f"this row is not valid JSON ({getattr(e, 'msg', e)})")
        except RecursionError:
            yield BadRow(where, "this row is nested too deeply")
        else:
            yield _object(value, where)


def _decoded(line: bytes | None, where: Location) -> str | BadRow:
    if line is None:
        return BadRow(where, _TOO_LONG)
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError:
        return BadRow(where, "this line is not UTF-8 text", _UTF8)


def _object(value: Any, where: Location) -> Row | BadRow:
    if isinstance(value, dict):
        return Row(value, where.line)
    return BadRow(where, "this row is not a JSON object with column names", 'write rows as {"column": "text", …}')


class _Window:
    """A sliding window over a long text, with its position in the file."""

    CHUNK = 2**20
    decoder = json.JSONDecoder()

    def __init__(self, path: Path, stream: io.BufferedReader) -> None:
        self.path, self.stream = path, io.TextIOWrapper(stream, encoding="utf-8", newline="")
        self.text, self.at, self.line, self.column, self.ended = "", 0, 1, 1, False

    def more(self) -> None:
        """Read more, doubling the window if needed, and drop the text before the position."""
        try:
            piece = self.stream.read(max(self.CHUNK, len(self.text) - self.at))
        except UnicodeDecodeError:
            raise DataError(
                "the file is not UTF-8 text from here on", where=Location(self.path, self.line), fix=_UTF8
            ) from None
        self.text, self.at, self.ended = self.text[self.at :] + piece, 0, not piece

    def go_to(self, at: int) -> None:
        passed = self.text.count("\n", self.at, at)
        self.line += passed
        self.column = at - self.text.rfind("\n", 0, at) if passed else self.column + at - self.at
        self.at = at

    def next(self) -> str:
        """Move to the next character that is not white space, and return it; empty at the end."""
        while True:
            match = _NOT_BLANK.search(self.text, self.at)
            self.go_to(match.start() if match else len(self.text))
            if match:
                return match[0]
            if self.ended:
                return ""
            self.more()

    def finish(self) -> None:
        """Step over the end of the array, after which nothing may follow."""
        self.go_to(self.at + 1)
        if self.next():
            raise self.error("Extra data after the array")

    def error(self, what: str) -> DataError:
        where = Location(self.path, self.line, self.column)
        return DataError(f"invalid JSON ({what})", where=where, fix="fix the JSON at this position")

    def value(self) -> Any:
        """Return the JSON value at the position, and move behind it."""
        where = Location(self.path, self.line, self.column)
        while True:
            try:
                value, end = self.decoder.raw_decode(self.text, self.at)
            except json.JSONDecodeError as e:
                problem, place = e.msg, e.pos
            except ValueError as e:  # a number with too many digits
                raise self.error(str(e)) from None
            except RecursionError:
                raise self.error("nested too deeply") from None
            else:
                if end < len(self.text) or self.ended:
                    self.go_to(end)
                    return value
                problem, place = "", end
            cut = place > len(self.text) - _LONGEST_WORD or problem.startswith("Unterminated string")
            if self.ended or not cut:
                self.go_to(place)
                raise self.error(problem)
            if len(self.text) - self.at > LIMIT_BYTES:
                raise DataError(_TOO_LONG, where=where, fix=_FIX)
            self.more()


def _go_to_key(window: _Window, key: str) -> None:
    """Move to the array under `key` of the object that the file is."""
    names: list[str] = []
    opening = window.next()
    while opening and opening in "{,":
        window.go_to(window.at + 1)
        if window.next() != '"':
            break
        names.append(window.value())
        if window.next() != ":":
            raise window.error("Expecting ':' delimiter")
        window.go_to(window.at + 1)
        start = window.next()
        if names[-1] == key and start == "[":
            return
        if names[-1] == key:
            raise DataError(f"`{key}` is not an array of rows", where=Location(window.path, window.line, window.column))
        window.value()
        opening = window.next()
    fix = "set `field` to the key that holds the rows"
    raise DataError(
        f"the file has no key `{key}` (it has {', '.join(names) or 'none'})", where=Location(window.path), fix=fix
    )


def _array_rows(window: _Window) -> Iterator[Row | BadRow]:
    """Yield the rows of the array at the position of `window`, and stop at its last bracket."""
    window.next()
    window.go_to(window.at + 1)
    if window.next() == "]":
        return
    while True:
        window.next()
        where = Location(window.path, window.line, window.column)
        yield _object(window.value(), where)
        after = window.next()
        if after == "]":
            return
        if after != ",":
            raise window.error("Expecting ',' delimiter" if after else "the array has no end")
        window.go_to(window.at + 1)


def _csv_rows(path: Path, stream: io.BufferedReader, sep: str) -> Iterator[Row | BadRow]:
    csv.field_size_limit(LIMIT_BYTES)
    # Bytes that are not UTF-8 become lone surrogates, which mark their row.
    text = io.TextIOWrapper(stream, encoding="utf-8", errors="surrogateescape", newline="")
    reader = csv.reader(text, delimiter=sep, strict=True)
    start = 0
    try:
        header = next(fields for fields in reader if fields)
        start = reader.line_num
        _check_header(Location(path, start), header)
        for fields in reader:
            line, start = start + 1, reader.line_num
            if not fields:
                continue
            where = Location(path, line)
            if len(fields) != len(header):
                what = f"this row has {len(fields)} fields, but the header has {len(header)}"
                yield BadRow(where, what, "quote fields that contain the separator or a line break")
            elif not all(field.isascii() or _is_text(field) for field in fields):
                yield BadRow(where, "this line is not UTF-8 text", _UTF8)
            else:
                yield Row(dict(zip(header, fields, strict=True)), line)
    except csv.Error as e:
        what = f"the file is not valid CSV from this row on ({e})"
        raise DataError(what, where=Location(path, start + 1), fix="fix the quotes of this row") from None


def _check_header(where: Location, header: Sequence[str]) -> None:
    twice = next((name for i, name in enumerate(header) if name in header[:i]), None)
    if twice is not None:
        raise DataError(f"duplicate column `{twice}`", where=where, fix="give each column a different name")
    if not all(_is_text(name) for name in header):
        raise DataError("the header is not UTF-8 text", where=where, fix=_UTF8)


def _is_text(value: str) -> bool:
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _texts(path: Path, stream: io.BufferedReader, sample_by: SampleBy) -> Iterator[Row | BadRow]:
    """Yield each line, paragraph (separated by empty lines) or file as {"text": …}, like Hugging Face's `text` reader."""
    parts: list[str] = []
    start, previous, size = 1, 0, 0
    for number, line in lines(stream):
        text = _decoded(line, Location(path, number))
        if isinstance(text, BadRow):
            yield text
            continue
        if sample_by == "line":
            yield Row({"text": text.rstrip("\r\n")}, number)
            continue
        blank_lines = number - previous - 1
        if parts and blank_lines and sample_by == "paragraph":
            yield _joined(path, start, parts, size)
            parts, size = [], 0
        if not parts:
            start, blank_lines = number, 0
        size, previous = size + blank_lines + len(text), number
        if size <= LIMIT_BYTES:  # a longer one is refused at its end
            parts += ["\n" * blank_lines, text.replace("\r\n", "\n")]
    if parts:
        yield _joined(path, start, parts, size)


def _joined(path: Path, start: int, parts: list[str], size: int) -> Row | BadRow:
    if size > LIMIT_BYTES:
        return BadRow(Location(path, start), _TOO_LONG)
    return Row({"text": "".join(parts).rstrip("\r\n")}, start)


def _parquet_rows(path: Path) -> Iterator[Row]:
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
                for values in batch.to_pylist():
                    number += 1
                    yield Row(values, number)
    except FileNotFoundError:
        raise missing_file(path) from None
    except (pyarrow.ArrowException, OSError) as e:
        raise DataError(
            f"the Parquet file cannot be read ({e})", where=Location(path), fix="download or write it again"
        ) from None
    if not number:
        raise empty_file(path)
