"""Recognize and describe the form of a data file: encoding, separator, header, layout of JSON, and sheet."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from phi_runtime.core.errors import DataError
from phi_runtime.data.encodings import UTF8, WINDOWS
from phi_runtime.data.json_rows import json_form
from phi_runtime.data.row import BadRow, ReadOptions, Row
from phi_runtime.data.rows import has_separator_line, records, resolve, scan
from phi_runtime.data.tables import column_names
from phi_runtime.data.workbook import sheet_names

_SAMPLED = 200  # rows of a table that are searched for a header
_TITLES = 3  # rows before a header
_WORDS = 4  # of each cell of a first row of sentences
_SHOWN = 3
_LAYOUTS = {"lines": "JSON Lines", "array": "a JSON array", "objects": "JSON objects one after another"}
_BY_COLUMNS = "JSON by columns"
_SEPARATORS = {"\t": "tabs", ",": "commas", ";": "semicolons", "|": "`|`"}
_NULLS = ("NULL", "null", "NaN", "nan", "None", "#N/A")


@dataclass(frozen=True)
class FileForm:
    """The form of a data file.

    Attributes:
        options: Options that read it, with all that was detected.
        text: Description of them.
        remarks: Peculiarities that change what is learned.
    """

    options: ReadOptions
    text: str
    remarks: tuple[str, ...] = ()

    @property
    def is_read_by_olive(self) -> bool:
        """False for what Hugging Face's datasets cannot read."""
        return self.options.format != "xlsx" and not self.text.endswith(_BY_COLUMNS)

    @property
    def keys(self) -> dict[str, Any]:
        """The keys of `load_dataset_config` with which Hugging Face's datasets, and so Olive, read the file alike."""
        options = self.options
        keys = {
            "sep": options.sep if options.sep != "," else None,
            "skipinitialspace": options.skipinitialspace or None,
            "encoding": options.encoding if options.encoding != UTF8 else None,
            "field": options.field,
            "sheet": options.sheet,
            "names": list(options.names) if options.names else None,
        }
        keys = {key: value for key, value in keys.items() if value is not None}
        return keys if options.header == "infer" else {**keys, "header": options.header}


def file_form(path: Path, options: ReadOptions, *, find_names: bool = False) -> FileForm:
    """Return the form of a data file as `options` read it; `find_names`: name the columns of a table without a header.

    Raises:
        DataError: as `scan`.
    """
    options = resolve(path, options)
    encoding = options.encoding or UTF8
    remarks = (
        [f"{path.name} is read as Windows-1252; set `encoding` if letters are wrong"] if encoding == WINDOWS else []
    )
    parts = [{UTF8: "UTF-8", WINDOWS: "Windows-1252"}.get(encoding, encoding)]
    if options.format in ("csv", "xlsx"):
        if find_names:
            options = _with_header(path, options)
        if options.format == "csv":
            parts.append(f"separated by {_SEPARATORS.get(sep := options.sep or ',', f'`{sep}`')}")
        else:
            parts = [_sheet(path, options)]
        parts.append(_header_text(options))
        remarks += _table_remarks(path, options)
    elif options.format == "json":
        form = json_form(path, encoding, options.field)
        if form.layout == "field":
            options = replace(options, field=form.keys[0])
        layouts = {**_LAYOUTS, "field": f"rows under `{form.keys and form.keys[0]}`", "columns": _BY_COLUMNS}
        parts.append(layouts[form.layout])
    elif options.format == "parquet":
        parts = ["Parquet"]
    return FileForm(options, ", ".join(parts), tuple(remarks))


def _header_text(options: ReadOptions) -> str:
    header = options.header
    if header is None or (header == "infer" and options.names):
        return "no header"
    return f"header in row {header + 1}" if isinstance(header, int) and header else "header"


def _sheet(path: Path, options: ReadOptions) -> str:
    names = sheet_names(path)
    shown = options.sheet or names[0]
    return f"sheet `{shown}`" + (f" of {len(names)} ({', '.join(names[:_SHOWN])})" if len(names) > 1 else "")


def _sample(path: Path, options: ReadOptions) -> list[Mapping[str, str]]:
    return [row.values for row in islice(scan(path, options), _SAMPLED) if isinstance(row, Row)]


def _table_remarks(path: Path, options: ReadOptions) -> list[str]:
    remarks = []
    try:
        sample = _sample(path, options)
    except DataError:
        return []  # the reader reports it
    nulls = Counter(value for values in sample for value in values.values() if value in _NULLS)
    if nulls:
        shown = ", ".join(f"`{text}` {count}" for text, count in nulls.items())
        remarks.append(f"{path.name} has cells that may mean no value, and are read as text: {shown}")
    return remarks


def _with_header(path: Path, options: ReadOptions) -> ReadOptions:
    """Return `options` with the row of the header, or with names for the columns of a table without one."""
    if options.names or options.header not in ("infer", None):
        return options
    try:
        sample = [record[1] for record in islice(records(path, options), _SAMPLED) if not isinstance(record, BadRow)]
    except DataError:
        return options  # the reader reports it
    sep_line = options.format == "csv" and has_separator_line(path, options.encoding or UTF8)
    if options.header is None:
        return replace(options, names=_names(sample), header="infer") if sample else options
    row = _header_row(sample)
    if row == 0 and _is_data(sample):
        return replace(options, names=_names(sample))
    if row or sep_line:
        options = replace(options, header=row + sep_line)
    if sample and any("\ufeff" in name for name in sample[row]):  # other readers keep the mark
        options = replace(options, header=row + sep_line, names=tuple(column_names(sample[row])))
    return options


def _header_row(sample: Sequence[Sequence[str]]) -> int:
    """Return the index of the header: the first of several names, after titles of one cell."""
    filled = [sum(1 for field in fields if field.strip()) for fields in sample]
    first = next((i for i, count in enumerate(filled[: _TITLES + 1]) if count > 1), 0)
    return first if first and filled[first] == max(filled) else 0


def _is_data(sample: Sequence[list[str]]) -> bool:
    """Return True if a value of the first row is repeated in its column, as a label is, or if all are sentences.

    A row that is repeated as it is does not count: files with headers were concatenated.
    """
    if len(sample) < 2:
        return False
    first, *others = ([field.lstrip("\ufeff") for field in fields] for fields in sample)
    rest = [fields for fields in others if fields != first]
    if len(first) < 2 or first == [str(i) for i in range(len(first))]:
        return False
    for i, value in enumerate(first):
        column = [fields[i] for fields in rest if i < len(fields)]
        if value.strip() and value in column and len(set(column)) < len(column):
            return True
    return all(len(value.split()) >= _WORDS for value in first) and first[-1].rstrip().endswith((".", "!"))


def _names(rows: Sequence[Sequence[str]]) -> tuple[str, ...]:
    """Return column names: `text` and `label` if one column has labels, else those of questions or prompts and answers."""
    rows = [row for row in rows if len(row) == len(rows[0])]
    columns = list(zip(*rows, strict=True))
    lengths = [sum(map(len, column)) for column in columns]
    few = max(2, len(rows) // 5)
    labels = [i for i, column in enumerate(columns) if 2 <= len(set(column)) <= few]
    names = [f"column_{i + 1}" for i in range(len(columns))]
    longest = lengths.index(max(lengths))
    if len(labels) == 1 and labels[0] != longest:
        names[longest], names[labels[0]] = "text", "label"
    elif len(columns) == 2:
        questions = sum(value.rstrip().endswith("?") for value in columns[0])
        names = ["question", "answer"] if questions > len(rows) / 2 else ["prompt", "completion"]
    return tuple(names)
