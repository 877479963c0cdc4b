"""Read rows of tables: CSV files of any separator, and records of workbooks."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from phi_runtime.config.file_formats import unpacked_name
from phi_runtime.core.errors import DataError, Location
from phi_runtime.data.encodings import FIX as ENCODING_FIX
from phi_runtime.data.files import LIMIT_BYTES, empty_file
from phi_runtime.data.row import BadRow, ReadOptions, Row

Record = tuple[int, list[str]]
"""The line on which a record starts, and its fields."""

NULL = "\\N"  # an empty field in the dumps of MySQL and PostgreSQL
_SEPARATORS = ",;\t|"
_SEP_LINE = re.compile(r'"?sep=(.)"?\r?\n', re.IGNORECASE)  # the first line of a CSV file for Excel
_SPACED_QUOTE = re.compile(r' +"')
MOST_COLUMNS = 100_000
_SAMPLED = 100  # records that decide on the separator


def default_sep(path: Path) -> str:
    """Return the separator of a CSV file by its suffix."""
    return "\t" if unpacked_name(path).suffix.lower() == ".tsv" else ","


def separator_line(head: str) -> str | None:
    """Return the separator that the first line `sep=…` names, as Excel writes it; None without such a line."""
    match = _SEP_LINE.match(head)
    return match[1] if match else None


def detect_sep(head: str, complete: bool, default: str) -> str:
    r"""Return the separator of a CSV file by its first lines: a comma, semicolon, tab or `|`.

    Another one than `default` must divide the header, and more of the records into the same number of fields.
    """
    if named := separator_line(head):
        return named
    shares = {sep: _share(head, complete, sep) for sep in dict.fromkeys(default + _SEPARATORS)}
    best = max(shares, key=lambda sep: shares[sep])  # the default, if it is among the best
    return best if shares[best] > 0.5 else default


def _share(head: str, complete: bool, sep: str) -> float:
    """Return the share of the records with as many fields as the header; 0 if the header is one field."""
    counts: list[int] = []
    try:
        for fields in _records_of(head, sep):
            if fields:
                counts.append(len(fields))
            if len(counts) > _SAMPLED:
                break
        else:
            counts = counts if complete else counts[:-1]
    except csv.Error:
        pass  # a field of more than the limit
    if not counts or counts[0] < 2:
        return 0.0
    return counts.count(counts[0]) / len(counts)


def _records_of(head: str, sep: str) -> Iterator[list[str]]:
    csv.field_size_limit(LIMIT_BYTES)  # of all readers of the process; 128 KiB at its start
    return csv.reader(io.StringIO(head, newline=""), delimiter=sep)


def detect_spaces(head: str, sep: str) -> bool:
    """Return True if most of the first records have a quoted field after a separator and spaces."""
    records = islice(_records_of(head, sep), _SAMPLED)
    try:
        spaced = [any(_SPACED_QUOTE.match(field) for field in fields) for fields in records if fields]
    except csv.Error:
        return False
    return sum(spaced) > len(spaced) / 2


def csv_records(path: Path, stream: io.BufferedReader, options: ReadOptions, *, skip_first: bool) -> Iterator[Record]:
    """Yield the records of a CSV file that are not blank; `skip_first`: without its first line.

    Bytes that are not UTF-8 are lone surrogates.

    Raises:
        DataError: the quotes of a record are wrong, so that the next ones cannot be found.
    """
    csv.field_size_limit(LIMIT_BYTES)
    text = io.TextIOWrapper(stream, encoding="utf-8", errors="surrogateescape", newline="")
    lines = _Lines(text)
    skipped = 1 if skip_first and next(lines, "") else 0
    sep = options.sep or default_sep(path)
    reader = csv.reader(lines, delimiter=sep, skipinitialspace=bool(options.skipinitialspace), strict=True)
    start = skipped
    try:
        for fields in reader:
            line, start = start + 1, reader.line_num + skipped
            lines.size = 0
            if fields:
                yield line, fields
    except csv.Error as e:
        what = f"the file is not valid CSV from this row on ({e})"
        raise DataError(what, where=Location(path, start + 1), fix="fix the quotes of this row") from None


class _Lines:
    """The lines of a table. Raises csv.Error in a record that is longer than the limit: it must not fill the memory."""

    def __init__(self, text: io.TextIOWrapper) -> None:
        self.text = text
        self.size = 0  # of the current record

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self.text.readline(LIMIT_BYTES + 1)
        self.size += len(line)
        if self.size > LIMIT_BYTES:
            raise csv.Error(f"it has more than {LIMIT_BYTES >> 20} MB")
        if not line:
            raise StopIteration
        return line


def table_rows(path: Path, records: Iterator[Record | BadRow], options: ReadOptions) -> Iterator[Row | BadRow]:
    """Yield the rows of a table by the names of its columns; see `ReadOptions` for its header.

    Columns without a name and names that are there twice get those of pandas, `Unnamed: 0` and `name.1`.

    Raises:
        DataError: the table has no header.
    """
    header, names = options.header, options.names
    written: list[str] = []
    if header == "infer":
        header = None if names else 0
    if header is not None:
        line, written = _header(path, records, header)
        _check_header(Location(path, line), written)
    columns = list(names) if names else column_names(written) if written else []
    repeated = written if len(written) > 1 else None
    needed = len(columns)
    while needed > 1 and columns[needed - 1].startswith("Unnamed: "):
        needed -= 1
    for record in records:
        if isinstance(record, BadRow):
            yield record
            continue
        line, fields = record
        if not columns:
            columns, needed = [str(i) for i in range(len(fields))], len(fields)
        yield _row(Location(path, line), fields, columns, needed, repeated)


def _header(path: Path, records: Iterator[Record | BadRow], number: int) -> Record:
    for record in islice(records, number, None):
        if isinstance(record, BadRow):
            raise record.error
        return record
    raise empty_file(path)


def _row(
    where: Location, fields: list[str], columns: Sequence[str], needed: int, repeated: list[str] | None
) -> Row | BadRow:
    if len(fields) != len(columns):
        if (len(fields) < needed and any(fields)) or any(islice(fields, len(columns), None)):
            what = f"this row has {len(fields)} fields, but the header has {len(columns)}"
            return BadRow(where, what, "quote fields that contain the separator or a line break")
        fields = (fields + [""] * len(columns))[: len(columns)]
    text = "".join(fields)
    if not (text.isascii() or is_text(text)):
        return BadRow(where, "this line is not UTF-8 text", ENCODING_FIX)
    if "\0" in text:
        return BadRow(where, "this row has a NUL character", "remove it, or export the file again")
    if fields[0].startswith("\ufeff"):  # in the middle of files that were concatenated
        fields[0] = fields[0].removeprefix("\ufeff")
    if fields == repeated:
        return BadRow(where, "this row repeats the header", "remove this row")
    if NULL in fields:
        fields = ["" if field == NULL else field for field in fields]
    return Row(dict(zip(columns, fields, strict=True)), where.line)


def column_names(header: Sequence[str]) -> list[str]:
    """Return a different name for each field of a header, as pandas does, without byte order marks."""
    plain = [name.replace("\ufeff", "") or f"Unnamed: {i}" for i, name in enumerate(header)]
    written, numbers = set(plain), Counter[str]()
    names: dict[str, None] = {}
    for name in plain:
        unique = name
        while unique in names or (numbers[name] and unique in written):
            numbers[name] += 1
            unique = f"{name}.{numbers[name]}"
        names[unique] = None
    return list(names)


def _check_header(where: Location, header: Sequence[str]) -> None:
    if len(header) > MOST_COLUMNS:
        what = f"the table has {len(header):,} columns; at most {MOST_COLUMNS:,} are read"
        raise DataError(
            what, where=where, fix="set `sep` to the separator of the file, or `header` to its row of names"
        )
    if not all(is_text(name) for name in header):
        raise DataError("the header is not UTF-8 text", where=where, fix=ENCODING_FIX)
    if not any(header):
        raise DataError("the header has no names", where=where, fix="write the column names there, or set `names`")


def is_text(value: str) -> bool:
    """Return False for lone surrogates."""
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
