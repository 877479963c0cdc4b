"""The form of a data file: what `new` writes into the config, and what `data check` says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import openpyxl
import pytest

from phi_runtime.config.file_formats import format_of
from phi_runtime.data.file_form import FileForm, file_form
from phi_runtime.data.row import BadRow, ReadOptions, Row
from phi_runtime.data.rows import read_rows, scan


def form(folder: Path, name: str, content: str | bytes, options: ReadOptions | None = None) -> FileForm:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return file_form(path, options or ReadOptions(format_of(path)), find_names=True)


LABELED = "it rains a lot,cold\nthe sun is out,warm\nfrost on the roof,cold\nbeach all day,warm\nice and snow,cold\n"


@pytest.mark.parametrize(
    ("name", "content", "keys", "text"),
    [
        ("a.csv", "text,label\n" + LABELED, {}, "UTF-8, separated by commas, header"),
        ("a.csv", LABELED, {"names": ["text", "label"]}, "UTF-8, separated by commas, no header"),
        ("a.csv", 2 * LABELED, {"names": ["text", "label"]}, "UTF-8, separated by commas, no header"),
        ("a.csv", 2 * ("\ufefftext,label\n" + LABELED), {}, "UTF-8, separated by commas, header"),
        ("a.csv", ("text,label\n" + LABELED).replace(",", ";"), {"sep": ";"}, "UTF-8, separated by semicolons, header"),
        ("a.tsv", ("text,label\n" + LABELED).replace(",", "\t"), {"sep": "\t"}, "UTF-8, separated by tabs, header"),
        ("a.csv", "sep=|\ntext|label\nx|y\n", {"sep": "|", "header": 1}, "UTF-8, separated by `|`, header in row 2"),
        ("a.csv", "text,label\né,x\n".encode("cp1252"), {"encoding": "cp1252"}, "Windows-1252, separated by commas, header"),
        ("a.csv", "text,label\né,x\n".encode("utf-16"), {"encoding": "utf-16"}, "utf-16, separated by commas, header"),
        ("a.csv", "0,1\nx,1\ny,0\nz,1\n", {}, "UTF-8, separated by commas, header"),
        ("a.csv", "How is it?,How do you feel about that today?\ngood,x\nbad,y\n", {}, "UTF-8, separated by commas, header"),
        ("a.csv", "Why is the sky blue today?,It is the light of the sun.\nWhy?,So.\nWho?,Me.\n",
         {"names": ["question", "answer"]}, "UTF-8, separated by commas, no header"),
        ("a.csv", "1,1,Tall tree story,pos\n2,1,A small tree fell over,neg\n3,1,No tree,pos\n4,1,Some,neg\n5,1,None,pos\n",
         {"names": ["column_1", "column_2", "text", "label"]}, "UTF-8, separated by commas, no header"),
        ("a.csv", "Survey of May,,\n,,\nq,a,b\nx,1,2\ny,3,4\n", {"header": 2}, "UTF-8, separated by commas, header in row 3"),
        ("a.csv", "Survey of May\n\nq,a\nx,1\ny,3\n", {"header": 1}, "UTF-8, separated by commas, header in row 2"),
        ("a.csv", "text\nx\ny\n", {}, "UTF-8, separated by commas, header"),
        ("a.csv", "text,\ufefflabel\nx,y\n", {"header": 0, "names": ["text", "label"]}, "UTF-8, separated by commas, header"),
        ("a.json", '{"v": 1, "rows": [{"q": 1}]}', {"field": "rows"}, "UTF-8, rows under `rows`"),
        ("a.json", '[{"q": 1}]', {}, "UTF-8, a JSON array"),
        ("a.json", '{"q": [1, 2]}', {}, "UTF-8, JSON by columns"),
        ("a.jsonl", '{"q": 1}\n', {}, "UTF-8, JSON Lines"),
    ],
)  # fmt: skip
def test_what_olive_must_know_is_in_the_keys(
    tmp_path: Path, name: str, content: str | bytes, keys: dict[str, Any], text: str
) -> None:
    found = form(tmp_path, name, content)
    assert (found.keys, found.text) == (keys, text)


def test_a_form_reads_the_same_rows(tmp_path: Path) -> None:
    for content in (LABELED, "sep=;\ntext;label\n" + LABELED.replace(",", ";")):
        found = form(tmp_path, "a.csv", content)
        rows = [row.values for row in read_rows(tmp_path / "a.csv", found.options)]
        assert (len(rows), rows[0]) == (5, {"text": "it rains a lot", "label": "cold"})


def test_the_header_of_a_concatenated_file_is_no_row(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(2 * "\ufefftext,label\nit rains,cold\n", encoding="utf-8")
    first, header, last = scan(path)
    assert [row.values for row in (first, last) if isinstance(row, Row)] == 2 * [{"text": "it rains", "label": "cold"}]
    assert isinstance(header, BadRow)
    assert (header.where.line, header.what) == (3, "this row repeats the header")


def test_what_may_be_misread_is_remarked(tmp_path: Path) -> None:
    assert form(tmp_path, "a.csv", "text,label\nx,NULL\ny,NULL\nNaN,z\n").remarks == (
        "a.csv has cells that may mean no value, and are read as text: `NULL` 2, `NaN` 1",
    )
    assert form(tmp_path, "a.csv", "text,label\né,x\n".encode("cp1252")).remarks == (
        "a.csv is read as Windows-1252; set `encoding` if letters are wrong",
    )
    assert form(tmp_path, "a.csv", "text,label\nx,\\N\n").remarks == ()


def test_the_sheet_of_a_workbook_is_named(tmp_path: Path) -> None:
    book = openpyxl.Workbook()
    for row in [line.split(",") for line in LABELED.splitlines()]:
        book.active.append(row)
    book.create_sheet("More")
    book.save(tmp_path / "a.xlsx")
    found = file_form(tmp_path / "a.xlsx", ReadOptions("xlsx"), find_names=True)
    assert found.text == "sheet `Sheet` of 2 (Sheet, More), no header"
    assert found.keys == {"names": ["text", "label"]}
