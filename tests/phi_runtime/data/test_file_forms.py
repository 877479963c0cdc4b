"""Data files as spreadsheets, databases and scripts write them: their encoding, separator, header and layout are detected."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from phi_runtime.core.errors import DataError
from phi_runtime.data.rows import BadRow, ReadOptions, read_rows, resolve, scan

ROWS = [{"text": "an x, red", "label": "cold"}, {"text": "a z", "label": "warm"}]


def write(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def values(path: Path, options: ReadOptions | None = None) -> list[dict[str, Any]]:
    return [row.values for row in read_rows(path, options)]


# -- tables -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("semicolon.csv", "text;label\nan x, red;cold\na z;warm\n"),
        ("tab.csv", "text\tlabel\nan x, red\tcold\na z\twarm\n"),
        ("bar.csv", "text|label\r\nan x, red|cold\r\na z|warm\r\n"),
        ("comma.tsv", 'text,label\n"an x, red",cold\na z,warm\n'),
        ("sep.csv", "sep=;\ntext;label\nan x, red;cold\na z;warm\n"),
        ("sep.csv", 'SEP=^\r\ntext^label\r\n"an x, red"^cold\r\na z^warm\r\n'),
        ("utf16.csv", 'text,label\n"an x, red",cold\na z,warm\n'.encode("utf-16")),
        ("utf16-tab.csv", "text\tlabel\nan x, red\tcold\na z\twarm\n".encode("utf-16")),
        ("utf16-without-mark.csv", 'text,label\n"an x, red",cold\na z,warm\n'.encode("utf-16-le")),
        ("utf16-big.csv", 'text,label\n"an x, red",cold\na z,warm\n'.encode("utf-16-be")),
        ("utf32.csv", 'text,label\n"an x, red",cold\na z,warm\n'.encode("utf-32")),
        ("mark-in-name.csv", 'text,\ufefflabel\n"an x, red",cold\na z,warm\n'),
        ("mark-in-row.csv", 'text,label\n"an x, red",cold\n\ufeffa z,warm\n'),
        ("utf16.jsonl", "\n".join(map(json.dumps, ROWS)).encode("utf-16")),
        ("utf16.json", json.dumps(ROWS, indent=1).encode("utf-16-be")),
        ("marks.jsonl", "\ufeff".join(json.dumps(row) + "\n" for row in ROWS)),
        ("mark-in-key.jsonl", "\n".join(json.dumps(row).replace("text", "\\ufefftext") for row in ROWS)),
        ("empty-fields.csv", 'text,label\n"an x, red",cold,,\na z,warm,,\n'),
    ],
)
def test_what_spreadsheets_write_is_read_as_the_same_rows(tmp_path: Path, name: str, content: str | bytes) -> None:
    assert values(write(tmp_path, name, content)) == ROWS


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("one-column.csv", "text\nhello; world\nab; cd\n", [{"text": "hello; world"}, {"text": "ab; cd"}]),
        ("one-column.csv", "text\nab\n", [{"text": "ab"}]),
        ("comma.csv", "a;b,c\n1;2,3\n", [{"a;b": "1;2", "c": "3"}]),
        ("tab.tsv", "a,b\tc\n1,2\t3\n", [{"a,b": "1,2", "c": "3"}]),
        ("decimal.csv", "a;n\nx;1,5\ny;2,5\n", [{"a": "x", "n": "1,5"}, {"a": "y", "n": "2,5"}]),
        ("quoted.csv", 'a;b\n"1;\n2";3\n', [{"a": "1;\n2", "b": "3"}]),
        ("spaces.csv", 'a, b\n"1, 2", "x"\n"3", "y"\n', [{"a": "1, 2", "b": "x"}, {"a": "3", "b": "y"}]),
        (
            "spaces.csv",
            'a, b\n1, x\n2, "y"\n3, z\n',
            [{"a": "1", " b": " x"}, {"a": "2", " b": ' "y"'}, {"a": "3", " b": " z"}],
        ),
        ("quotes.csv", 'a,b\n"1, ""2""",x\n', [{"a": '1, "2"', "b": "x"}]),
        ("index.csv", ",a,b\n0,x,y\n", [{"Unnamed: 0": "0", "a": "x", "b": "y"}]),
        ("trailing.csv", "a,,\nx,,\ny\n", [{"a": v, "Unnamed: 1": "", "Unnamed: 2": ""} for v in "xy"]),
        ("twice.csv", "q,a,q,q.1\n1,2,3,4\n", [{"q": "1", "a": "2", "q.2": "3", "q.1": "4"}]),
        ("null.csv", "a,b\n\\N,NULL\n", [{"a": "", "b": "NULL"}]),
        ("empty.csv", "a,b\nx,1\n,,,\n", [{"a": "x", "b": "1"}, {"a": "", "b": ""}]),
        ("western.csv", "a,b\ncafé,«gut» – 5 €\n".encode("cp1252"), [{"a": "café", "b": "«gut» – 5 €"}]),
        ("western.jsonl", '{"a": "Caf\xe9"}\n'.encode("cp1252"), [{"a": "Café"}]),
        ("western.txt", "Größe, naïve\n".encode("cp1252"), [{"text": "Größe, naïve"}]),
    ],
)
def test_fields_are_those_that_the_file_means(
    tmp_path: Path, name: str, content: str | bytes, expected: list[Any]
) -> None:
    assert values(write(tmp_path, name, content)) == expected


@pytest.mark.parametrize(
    ("content", "options", "expected"),
    [
        ("x,1\ny,2\n", {"names": ("a", "b")}, [{"a": "x", "b": "1"}, {"a": "y", "b": "2"}]),
        ("x,1\ny,2\n", {"header": None}, [{"0": "x", "1": "1"}, {"0": "y", "1": "2"}]),
        ("Survey of May\n\na,b\nx,1\n", {"header": 1}, [{"a": "x", "b": "1"}]),
        ("a,b\nx,1\n", {"header": 0, "names": ("c", "d")}, [{"c": "x", "d": "1"}]),
        ("sep=;\na;b\nx;1\n", {"sep": ";", "header": 1}, [{"a": "x", "b": "1"}]),
        ("a^b\nx^1\n", {"sep": "^"}, [{"a": "x", "b": "1"}]),
        ("имя,b\nда,1\n".encode("cp1251"), {"encoding": "cp1251"}, [{"имя": "да", "b": "1"}]),
        ("名前,b\n猫,1\n".encode("shift_jis"), {"encoding": "shift_jis"}, [{"名前": "猫", "b": "1"}]),
    ],
)
def test_options_decide_before_the_file(
    tmp_path: Path, content: str | bytes, options: dict[str, Any], expected: list[Any]
) -> None:
    assert values(write(tmp_path, "a.csv", content), ReadOptions("csv", **options)) == expected


@pytest.mark.parametrize(
    ("content", "lines"),
    [
        ("text;label\nx;1\ny\nz;2\nw;3\n", [3]),
        ("a,b\nx,1\na,b\ny,2\n", [3]),  # two files, one after the other
        ("a,b\nx,1\ny\0,2\n", [3]),
        ("a,b\nx,1\nда,2\n".encode("cp1251"), [3]),  # not a Western language: the letters would be wrong
        ("a,b\nx,1\n猫だ,2\n".encode("gbk"), [3]),
        ("a,b\nposzed³,1\nca³y,2\n".encode("cp1252"), [2, 3]),  # Polish in cp1250
        ("a,b\ncrème,1\n".encode("cp850"), [2]),
        ("a,b\né,1\n".encode() + "é,2\n".encode("cp1252"), [3]),
    ],
)
def test_a_row_that_cannot_be_read_is_located(tmp_path: Path, content: str | bytes, lines: list[int]) -> None:
    bad = [row for row in scan(write(tmp_path, "a.csv", content)) if isinstance(row, BadRow)]
    assert [row.where.line for row in bad] == lines


def test_the_separator_does_not_depend_on_the_files_read_before(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", f"a,b;c\n{'x' * 140_000};y\n")
    csv.field_size_limit(131_072)  # of a new process
    first = resolve(path, ReadOptions("csv"))
    assert list(scan(path))
    assert resolve(path, ReadOptions("csv")) == first


def test_lines_of_a_row_are_counted_with_a_separator_line(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", 'sep=;\na;b\n"x\ny";1\nz;2\n')
    assert [row.line for row in read_rows(path)] == [3, 5]


def test_detected_options_are_known(tmp_path: Path) -> None:
    western = resolve(write(tmp_path, "a.csv", "a;b\né;1\n".encode("cp1252")), ReadOptions("csv"))
    assert (western.encoding, western.sep) == ("cp1252", ";")


# -- JSON ---------------------------------------------------------------------------------------------------------------------

RECORDS = [{"text": "a", "label": 1}, {"text": "b", "label": 2}]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("pretty.jsonl", "\n".join(json.dumps(row, indent=1) for row in RECORDS)),
        ("pretty.json", "\n\n".join(json.dumps(row, indent=2) for row in RECORDS)),
        ("array.jsonl", json.dumps(RECORDS)),
        ("field.json", json.dumps({"version": "1", "data": RECORDS})),
        ("field.json", json.dumps({"version": {"x": [1]}, "data": RECORDS, "more": [1, [2]]}, indent=1)),
        ("columns.json", '{"text": {"0": "a", "1": "b"}, "label": {"0": 1, "1": 2}}'),
        ("columns.json", '{"text": ["a", "b"], "label": [1, 2]}'),
        ("columns.json", json.dumps({"text": {"0": "a", "7": "b"}, "label": {"0": 1, "7": 2}}, indent=4)),
    ],
)
def test_each_layout_of_json_gives_the_same_rows(tmp_path: Path, name: str, content: str) -> None:
    assert values(write(tmp_path, name, content)) == RECORDS


def test_a_long_file_of_columns_is_read_in_step(tmp_path: Path) -> None:
    texts = [f"row {i} " + "x" * 100 for i in range(5000)]
    path = write(tmp_path, "a.json", json.dumps({"text": texts, "n": list(range(5000))}))
    rows = list(read_rows(path))
    assert [row.values for row in rows] == [{"text": text, "n": i} for i, text in enumerate(texts)]
    assert [row.line for row in rows] == list(range(1, 5001))


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [{"role": "user", "content": "Hi"}]},
        {"conversations": [{"from": "human", "value": "Hi"}]},
        {"text": "a", "n": 1},
    ],
)
def test_a_single_row_on_one_line_is_a_row(tmp_path: Path, row: dict[str, Any]) -> None:
    assert values(write(tmp_path, "a.json", json.dumps(row))) == [row]


@pytest.mark.parametrize(
    ("name", "content", "where", "says"),
    [
        ("a.json", '{\n"birds": {"file": "b"},\n"trees": {"file": "t"}\n}', 0, "one JSON object (birds, trees)"),
        ("a.json", '{"0": {"q": "x"}, "1": {"q": "y"}}', 0, "one JSON object (0, 1)"),
        ("a.json", '{"columns": ["q"], "index": [0], "data": [["x"]]}', 0, "one JSON object (columns, index, data)"),
        ("a.json", '{"result": {"rows": [{"q": 1}]}}', 0, "one JSON object (result)"),
        ("a.json", '{"train": [{"q": 1}], "test": [{"q": 2}]}', 0, "the keys train, test all hold rows"),
        ("a.json", '{"q": ["a", "b"], "a": ["x", "y"], "q": ["c", "d"]}', 0, "the key `q` twice"),
        ("a.json", '{"data": [{"q": 1}], "data": [{"q": 2}]}', 0, "the key `data` twice"),
        ("a.json", json.dumps({f"word{i}": ["x", "y"] for i in range(101)}), 0, "one JSON object (word0, word1, "),
        ("a.json", '{"a": ["x", "y"], "b": ["z"]}', 0, "differ in their rows from row 2 on"),
        ("a.json", '{"a": {"0": "x"}, "b": {"1": "z"}}', 0, "differ in their rows from row 1 on"),
        ("a.jsonl", '{"q": 1}\n{"q": 1, "a": "x", "a": "y"}\n', 2, "the key `a` twice"),
        ("a.jsonl", '{"m": [{"role": "user", "role": "system"}]}\n', 1, "the key `role` twice"),
        ("a.json", '[{"q": 1},\n{"q": 1, "q": 2}]', 2, "the key `q` twice"),
        ("a.jsonl", "{'q': 'x'}\n", 1, "not valid JSON"),
        ("a.jsonl", '{\n"q": "x"\n}\n{\n"q": }', 5, "Expecting value"),
        ("a.jsonl", '{\n"q": }\n{\n"q": "x"\n}', 2, "Expecting value"),
        ("a.csv", b"PK\x03\x04rest of an archive", 0, "an Excel file or a ZIP archive"),
        ("a.jsonl", b"%PDF-1.7", 0, "a PDF file"),
    ],
)
def test_what_holds_no_rows_is_refused(tmp_path: Path, name: str, content: str | bytes, where: int, says: str) -> None:
    with pytest.raises(DataError) as caught:
        values(write(tmp_path, name, content))
    assert says in caught.value.what
    assert caught.value.where is not None
    assert caught.value.where.line == where
    assert caught.value.fix


@pytest.mark.parametrize("content", ["{'q': 'x'}\n", '{"q": None}\n', "[{'q': 'x'}]", '[{"q": True}]'])
def test_python_notation_is_recognized(tmp_path: Path, content: str) -> None:
    with pytest.raises(DataError) as caught:
        values(write(tmp_path, "a.jsonl", content))
    assert "json.dumps" in caught.value.fix


def test_a_key_with_the_same_value_twice_changes_nothing(tmp_path: Path) -> None:
    assert values(write(tmp_path, "a.jsonl", '{"q": "x", "q": "x"}\n')) == [{"q": "x"}]
