"""Rows of a data file, one after the other, each known by its line, so that a fault can be pointed at.

A row that cannot be read is a `Broken`, and the reading goes on; a file that cannot be read on ends in a DataError.
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
from phi_runtime.data.files import LIMIT_BYTES, first_byte, lines, opened

_TOO_LONG = f"this row has more than {LIMIT_BYTES >> 20} MB"
_MEND = "mend or remove that row"
_UTF8 = "save the file as UTF-8"
_NOT_BLANK = re.compile(r"\S")
_LONGEST_WORD = 32  # of JSON outside a string: what the end of the window may have cut


@dataclass(frozen=True)
class Reading:
    """How a file is read. `sep` stands between the fields of a CSV file, null: what its ending says; `sample_by` says what is a
    row of a text file."""

    format: Format
    sep: str | None = None
    sample_by: SampleBy = "line"


@dataclass(frozen=True)
class Row:
    """One row: the values by column, and the line (from 1) on which it starts; of a Parquet file, its number."""

    values: dict[str, Any]
    line: int


@dataclass(frozen=True)
class Broken:
    """A row that cannot be used, and why."""

    where: Location
    what: str
    fix: str = _MEND

    @property
    def error(self) -> DataError:
        return DataError(self.what, where=self.where, fix=self.fix)


def read_rows(path: Path, reading: Reading | None = None) -> Iterator[Row]:
    """The rows of a file, in order. Raises DataError, with the line, for the first that is broken, and as `scan` does."""
    for row in scan(path, reading):
        if isinstance(row, Broken):
            raise row.error
        yield row


def scan(path: Path, reading: Reading | None = None) -> Iterator[Row | Broken]:
    """The rows of a JSON Lines, JSON (array of objects), CSV, Parquet or text file, in order, broken ones among them.

    The memory it takes does not grow with the file. Raises DataError for a file that is absent or empty, or cannot be read on,
    and MissingDependency where it takes a package that is not here.
    """
    reading = reading or Reading(format_of(path))
    if reading.format == "parquet":
        yield from _parquet_rows(path)
        return
    with opened(path) as stream:
        start = first_byte(stream)
        if not start:
            raise DataError("the data file is empty", where=Location(path), fix="put at least one row into it")
        if reading.format == "csv":
            yield from _csv_rows(
                path, stream, reading.sep or ("\t" if unpacked_name(path).suffix.lower() == ".tsv" else ",")
            )
        elif reading.format == "text":
            yield from _texts(path, stream, reading.sample_by)
        elif start == b"[":
            yield from _array_rows(path, stream)
        else:
            yield from _json_lines(path, stream)


def _json_lines(path: Path, stream: io.BufferedReader) -> Iterator[Row | Broken]:
    for number, line in lines(stream):
        where = Location(path, number)
        text = _decoded(line, where)
        if isinstance(text, Broken):
            yield text
            continue
        try:
            value = json.loads(text.rstrip("\r\n"))  # else what is cut off is shown on the line below
        except ValueError as e:
            place = Location(path, number, getattr(e, "colno", 1))
            yield Broken(place, f"this row is not JSON ({getattr(e, 'msg', e)})")
        except RecursionError:
            yield Broken(where, "this row is nested too deeply")
        else:
            yield _object(value, where)


def _decoded(line: bytes | None, where: Location) -> str | Broken:
    if line is None:
        return Broken(where, _TOO_LONG)
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError:
        return Broken(where, "this line is not UTF-8 text", _UTF8)


def _object(value: Any, where: Location) -> Row | Broken:
    if isinstance(value, dict):
        return Row(value, where.line)
    return Broken(where, "this row is not a JSON object with column names", 'write rows as {"column": "text", …}')


class _Window:
    """The part of a long text that is being read, and the place in the whole that it stands at."""

    CHUNK = 2**20

    def __init__(self, path: Path, stream: io.BufferedReader) -> None:
        self.path, self.stream = path, io.TextIOWrapper(stream, encoding="utf-8", newline="")
        self.text, self.at, self.line, self.column, self.ended = "", 0, 1, 1, False

    def more(self) -> None:
        """Reads on, twice as much each time that it is not enough, and forgets what is behind."""
        try:
            piece = self.stream.read(max(self.CHUNK, len(self.text) - self.at))
        except UnicodeDecodeError:
            raise DataError(
                "from here on this is not UTF-8 text", where=Location(self.path, self.line), fix=_UTF8
            ) from None
        self.text, self.at, self.ended = self.text[self.at :] + piece, 0, not piece

    def go_to(self, at: int) -> None:
        passed = self.text.count("\n", self.at, at)
        self.line += passed
        self.column = at - self.text.rfind("\n", 0, at) if passed else self.column + at - self.at
        self.at = at

    def next(self) -> str:
        """The next character that is no white space, which is where the window then stands; empty at the end."""
        while True:
            found = _NOT_BLANK.search(self.text, self.at)
            self.go_to(found.start() if found else len(self.text))
            if found:
                return found[0]
            if self.ended:
                return ""
            self.more()

    def finish(self) -> None:
        """Steps over the end of the array, behind which nothing may stand."""
        self.go_to(self.at + 1)
        if self.next():
            raise self.error("Extra data behind the array")

    def error(self, what: str) -> DataError:
        where = Location(self.path, self.line, self.column)
        return DataError(f"the JSON is broken here ({what})", where=where, fix="mend the JSON there")


def _array_rows(path: Path, stream: io.BufferedReader) -> Iterator[Row | Broken]:
    window, decoder = _Window(path, stream), json.JSONDecoder()
    window.next()
    window.go_to(window.at + 1)
    if window.next() == "]":
        window.finish()
        return
    while True:
        window.next()
        where = Location(path, window.line, window.column)
        while True:
            try:
                value, end = decoder.raw_decode(window.text, window.at)
            except json.JSONDecodeError as e:
                fault, place = e.msg, e.pos
            except ValueError as e:  # a number with too many digits
                raise window.error(str(e)) from None
            except RecursionError:
                raise window.error("nested too deeply") from None
            else:
                if end < len(window.text) or window.ended:
                    break
                fault, place = "", end
            cut = place > len(window.text) - _LONGEST_WORD or fault.startswith("Unterminated string")
            if window.ended or not cut:
                window.go_to(place)
                raise window.error(fault)
            if len(window.text) - window.at > LIMIT_BYTES:
                raise DataError(_TOO_LONG, where=where, fix=_MEND)
            window.more()
        yield _object(value, where)
        window.go_to(end)
        after = window.next()
        if after == "]":
            window.finish()
            return
        if after != ",":
            raise window.error("Expecting ',' delimiter" if after else "the array has no end")
        window.go_to(window.at + 1)


def _csv_rows(path: Path, stream: io.BufferedReader, sep: str) -> Iterator[Row | Broken]:
    csv.field_size_limit(LIMIT_BYTES)
    # What is no UTF-8 becomes lone surrogates, by which its row is known.
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
                what = f"this row has {len(fields)} fields, and the header {len(header)}"
                yield Broken(where, what, "quote fields that hold a comma or a line break")
            elif not all(field.isascii() or _is_text(field) for field in fields):
                yield Broken(where, "this line is not UTF-8 text", _UTF8)
            else:
                yield Row(dict(zip(header, fields, strict=True)), line)
    except csv.Error as e:
        what = f"from this row on it is not CSV ({e})"
        raise DataError(what, where=Location(path, start + 1), fix="mend the quotes of that row") from None


def _check_header(where: Location, header: Sequence[str]) -> None:
    twice = next((name for i, name in enumerate(header) if name in header[:i]), None)
    if twice is not None:
        what = f"two columns are called `{twice}`"
        raise DataError(what, where=where, fix="give each column a name of its own")
    if not all(_is_text(name) for name in header):
        raise DataError("the header is not UTF-8 text", where=where, fix=_UTF8)


def _is_text(value: str) -> bool:
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _texts(path: Path, stream: io.BufferedReader, sample_by: SampleBy) -> Iterator[Row | Broken]:
    """Each line, paragraph (between empty lines) or file as {"text": …}, as Hugging Face's `text` reader has it."""
    held: list[str] = []
    start, before, size = 1, 0, 0
    for number, line in lines(stream):
        text = _decoded(line, Location(path, number))
        if isinstance(text, Broken):
            yield text
            continue
        if sample_by == "line":
            yield Row({"text": text.rstrip("\r\n")}, number)
            continue
        apart = number - before - 1
        if held and apart and sample_by == "paragraph":
            yield _held(path, start, held, size)
            held, size = [], 0
        if not held:
            start, apart = number, 0
        size, before = size + apart + len(text), number
        if size <= LIMIT_BYTES:  # what is longer is refused at its end
            held += ["\n" * apart, text.replace("\r\n", "\n")]
    if held:
        yield _held(path, start, held, size)


def _held(path: Path, start: int, held: list[str], size: int) -> Row | Broken:
    if size > LIMIT_BYTES:
        return Broken(Location(path, start), _TOO_LONG)
    return Row({"text": "".join(held).rstrip("\r\n")}, start)


def _parquet_rows(path: Path) -> Iterator[Row]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise MissingDependency(
            "reading a Parquet file needs the package pyarrow",
            where=Location(path),
            fix="run `pip install pyarrow` where phi-scaffold is installed",
        ) from None
    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=1024):
                for values in batch.to_pylist():
                    number += 1
                    yield Row(values, number)
    except FileNotFoundError:
        raise DataError("there is no such data file", where=Location(path), fix="check the path") from None
    except (pyarrow.ArrowException, OSError) as e:
        raise DataError(
            f"the Parquet file cannot be read ({e})", where=Location(path), fix="get the file anew"
        ) from None
    if not number:
        raise DataError("the data file is empty", where=Location(path), fix="put at least one row into it")
