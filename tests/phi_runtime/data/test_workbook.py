"""Excel workbooks: a sheet is read as the table that its author sees."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import openpyxl
import pytest

from phi_runtime.core.errors import DataError
from phi_runtime.data.rows import BadRow, ReadOptions, read_rows, scan
from phi_runtime.data.workbook import sheet_names


def workbook(path: Path, sheets: dict[str, list[list[Any]]], hidden: tuple[str, ...] = ()) -> Path:
    book = openpyxl.Workbook()
    book.remove(book.active)
    for name, rows in sheets.items():
        sheet = book.create_sheet(name)
        for row in rows:
            sheet.append(row)
        sheet.sheet_state = "hidden" if name in hidden else "visible"
    book.save(path)
    return path


def test_cells_are_texts_as_a_csv_file_would_have_them(tmp_path: Path) -> None:
    cells = [
        ["text", 12, 12.0, 0.5, True, None, datetime.date(2024, 5, 1), datetime.datetime(2024, 5, 1, 13, 30)],
    ]
    header = ["text", "int", "whole", "part", "bool", "none", "date", "time"]
    path = workbook(tmp_path / "a.xlsx", {"Data": [header, *cells]})
    expected = ["text", "12", "12", "0.5", "true", "", "2024-05-01", "2024-05-01T13:30:00"]
    assert [row.values for row in read_rows(path)] == [dict(zip(header, expected, strict=True))]


def test_the_first_visible_sheet_is_read_or_the_named_one(tmp_path: Path) -> None:
    sheets = {"Notes": [["n"], ["x"]], "One": [[], ["q", "a"], ["x", 1], [None, None], ["y", 2]], "Two": [["q"], ["z"]]}
    path = workbook(tmp_path / "a.xlsx", sheets, hidden=("Notes",))
    rows = list(read_rows(path))
    assert [(row.values, row.line) for row in rows] == [({"q": "x", "a": "1"}, 3), ({"q": "y", "a": "2"}, 5)]
    assert [row.values for row in read_rows(path, ReadOptions("xlsx", sheet="Two"))] == [{"q": "z"}]
    assert sheet_names(path) == ["One", "Two"]
    with pytest.raises(DataError) as caught:
        list(read_rows(path, ReadOptions("xlsx", sheet="Three")))
    assert "Notes, One, Two" in caught.value.fix


def test_a_header_may_be_missing_or_further_down(tmp_path: Path) -> None:
    path = workbook(tmp_path / "a.xlsx", {"A": [["Survey"], ["q", "a"], ["x", "1"]]})
    assert [r.values for r in read_rows(path, ReadOptions("xlsx", header=1))] == [{"q": "x", "a": "1"}]
    named = ReadOptions("xlsx", names=("c", "d"), header=1)
    assert [r.values for r in read_rows(path, named)] == [{"c": "x", "d": "1"}]


def test_cells_without_a_value_are_located(tmp_path: Path) -> None:
    rows = [["q", "a"], ["x", "=1+1"], ["y", "#N/A"], ["z", 3]]
    path = workbook(tmp_path / "a.xlsx", {"A": rows})
    found = list(scan(path))
    assert [(r.where.line, "B2" in r.what, "B3" in r.what) for r in found if isinstance(r, BadRow)] == [
        (2, True, False),
        (3, False, True),
    ]
    assert [r.values for r in found if not isinstance(r, BadRow)] == [{"q": "z", "a": "3"}]


@pytest.mark.parametrize("content", [b"text,label\n", b"\xd0\xcf\x11\xe0old", b"PK\x03\x04", b""])
def test_a_file_that_is_no_workbook_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.xlsx"
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        list(read_rows(path))
    assert ".csv" in caught.value.fix
    with pytest.raises(DataError, match="does not exist"):
        list(read_rows(tmp_path / "none.xlsx"))


def test_cells_far_outside_of_the_table_do_not_fill_the_memory(tmp_path: Path) -> None:
    book = openpyxl.Workbook()
    book.active.append(["q", "a"])
    book.active.append(["x", "1"])
    book.active["A200000"] = "y"
    book.save(tmp_path / "a.xlsx")
    rows = list(scan(tmp_path / "a.xlsx"))
    assert [getattr(row, "line", 0) for row in rows] == [2, 0]
