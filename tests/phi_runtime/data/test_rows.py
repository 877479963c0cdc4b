"""Data files: every valid format is read as a stream, every error shows its place, and reading continues after it."""

from __future__ import annotations

import bz2
import codecs
import gzip
import json
import lzma
import sys
import tracemalloc
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from phi_runtime.config.file_formats import format_of, unpacked_name
from phi_runtime.core.errors import DataError, MissingDependency
from phi_runtime.data import tables
from phi_runtime.data.files import LIMIT_BYTES
from phi_runtime.data.json_window import Window
from phi_runtime.data.rows import BadRow, ReadOptions, Row, original_names, read_rows, scan

PACKERS: dict[str, Callable[[bytes], bytes]] = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}
if find_spec("zstandard"):
    PACKERS[".zst"] = import_module("zstandard").compress
LINES = '{"q": "x, y", "a": "1"}\n\n{"q": "z", "a": "2"}\n'
ROWS = [{"q": "x, y", "a": "1"}, {"q": "z", "a": "2"}]


def write(tmp_path: Path, name: str, content: str | bytes) -> Path:
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def values(path: Path, reading: ReadOptions | None = None) -> list[dict[str, Any]]:
    return [row.values for row in read_rows(path, reading)]


def scanned(path: Path, reading: ReadOptions | None = None) -> list[Any]:
    """The values of good rows and the places of broken ones."""
    return [
        f"{row.where.line}:{row.where.column} {row.what}" if isinstance(row, BadRow) else row.values
        for row in scan(path, reading)
    ]


# -- the forms ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", LINES),
        ("a.ndjson", LINES),
        ("A.JSONL", LINES),
        ("bom-crlf.jsonl", '\ufeff{"q": "x, y", "a": "1"}\r\n{"q": "z", "a": "2"}\r\n'),
        ("lines-in.json", '{"q": "x, y", "a": "1"}\n{"q": "z", "a": "2"}'),
        ("array.json", '[{"q": "x, y", "a": "1"},\n {"q": "z", "a": "2"}]'),
        ("bom-array.json", '\ufeff \n[{"q": "x, y", "a": "1"},\r\n {"q": "z", "a": "2"} ]\r\n'),
        ("a.csv", 'q,a\n"x, y",1\nz,2\n'),
        ("bom.csv", '\ufeffq,a\r\n"x, y",1\r\n\r\nz,2'),
        ("a.tsv", "q\ta\nx, y\t1\nz\t2\n"),
        ("A.TSV", "q\ta\nx, y\t1\nz\t2\n"),
    ],
)
def test_every_form_of_the_same_rows_reads_alike(tmp_path: Path, name: str, content: str) -> None:
    assert values(write(tmp_path, name, content)) == ROWS


def test_a_csv_file_is_parted_by_what_its_config_says(tmp_path: Path) -> None:
    assert values(write(tmp_path, "a.csv", "q;a\nx, y;1\nz;2\n"), ReadOptions("csv", ";")) == ROWS
    assert values(write(tmp_path, "a.tsv", "q|a\nx, y|1\nz|2\n"), ReadOptions("csv", "|")) == ROWS


@pytest.mark.parametrize("packing", PACKERS)
@pytest.mark.parametrize(
    ("name", "content"), [("a.jsonl", LINES), ("a.json", json.dumps(ROWS)), ("a.tsv", "q\ta\nx, y\t1\nz\t2\n")]
)
def test_a_packed_file_reads_as_what_is_in_it(tmp_path: Path, name: str, content: str, packing: str) -> None:
    path = write(tmp_path, name + packing, PACKERS[packing](content.encode()))
    assert unpacked_name(path).name == name
    assert values(path) == ROWS


@pytest.mark.parametrize("packing", PACKERS)
def test_a_file_that_was_packed_in_parts_reads_on(tmp_path: Path, packing: str) -> None:
    one, two = LINES.encode().split(b"\n\n")
    packed = PACKERS[packing](one[:5]) + PACKERS[packing](one[5:] + b"\n" + two)
    assert values(write(tmp_path, f"a.jsonl{packing}", packed)) == ROWS


def test_a_zst_file_needs_a_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(MissingDependency, match="zstandard") as caught:
        values(write(tmp_path, "a.jsonl.zst", b"packed"))
    assert "or decompress a.jsonl.zst" in caught.value.fix


def test_a_parquet_file_gives_its_rows_with_their_types_and_numbers(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]
    rows = [{"t": f"text {i}", "n": i, "messages": messages, "x": None} for i in range(2500)]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet", row_group_size=700)
    found = list(read_rows(tmp_path / "a.parquet"))
    assert [row.values for row in found] == rows
    assert [row.line for row in found] == list(range(1, 2501))


def test_a_parquet_file_that_is_damaged_empty_or_absent_is_refused(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.table({"t": pyarrow.array([], pyarrow.string())}), tmp_path / "none.parquet")
    for name, says in (("none.parquet", "is empty"), ("absent.parquet", "the data file does not exist")):
        with pytest.raises(DataError, match=says):
            values(tmp_path / name)
    with pytest.raises(DataError, match="Parquet file cannot be read"):
        values(write(tmp_path, "bad.parquet", b"PAR1 something else"))


def test_without_pyarrow_a_parquet_file_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingDependency) as caught:
        values(tmp_path / "a.parquet")
    assert "pip install" in caught.value.fix


TEXT = "\n one\ntwo\n\n\nthree\n \nfour\n\n"


@pytest.mark.parametrize(
    ("sample_by", "expected"),
    [
        ("line", [(" one", 2), ("two", 3), ("three", 6), ("four", 8)]),
        ("paragraph", [(" one\ntwo", 2), ("three", 6), ("four", 8)]),
        ("document", [(" one\ntwo\n\n\nthree\n\nfour", 2)]),
    ],
)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_text_is_read_by_line_paragraph_or_document(
    tmp_path: Path, sample_by: Any, expected: list[Any], end: str
) -> None:
    path = write(tmp_path, "a.txt", TEXT.replace("\n", end))
    assert [(r.values["text"], r.line) for r in read_rows(path, ReadOptions("text", sample_by=sample_by))] == expected


def test_a_line_separator_inside_a_string_does_not_end_the_row(tmp_path: Path) -> None:
    path = write(tmp_path, "a.jsonl", '{"q": "one\u2028two", "a": "1"}\n')
    assert [r.values["q"] for r in read_rows(path)] == ["one\u2028two"]
    assert values(write(tmp_path, "a.txt", "one\u2028two\x0bthree\n")) == [{"text": "one\u2028two\x0bthree"}]


def test_a_csv_field_may_hold_line_breaks_and_the_next_row_keeps_its_line_number(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", '\nq,a\n"x\ny",1\n\nz,2\n')
    assert [(r.values["q"], r.line) for r in read_rows(path)] == [("x\ny", 3), ("z", 6)]


def test_rows_of_an_array_know_the_line_on_which_they_start(tmp_path: Path) -> None:
    path = write(tmp_path, "a.json", '[\n  {\n "q": 1},\n\n {"q": 2}, {"q":\n3}]')
    assert [(r.values["q"], r.line) for r in read_rows(path)] == [(1, 2), (2, 5), (3, 5)]


def test_the_format_is_told_by_the_ending_below_the_packing() -> None:
    endings = {
        "a.jsonl.gz": "json",
        "a.TSV": "csv",
        "a.parquet": "parquet",
        "a.txt.xz": "text",
        "b.json.zst": "json",
        "b.XLSX": "xlsx",
    }
    assert {name: format_of(Path(name)) for name in endings} == endings
    for name, fix in (
        ("a.xls", ".xlsx"),
        ("rows", ".jsonl"),
        ("a.zip", "extract"),
        ("a.docx", ".txt"),
        ("a.ods", ".csv"),
    ):
        with pytest.raises(DataError, match="unknown data format") as caught:
            format_of(Path(name))
        assert fix in caught.value.fix


# -- the faults ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "place", "says"),
    [
        ("a.jsonl", '{"q": "x"}\n{"q": \r\n', ":2:7", "not valid JSON"),
        ("a.jsonl", '{"q": "x"}\n["q"]\n', ":2:", "not a JSON object"),
        ("a.jsonl", f'{{"q": 1}}\n{{"q": {"9" * 5000}}}\n', ":2:", "not valid JSON"),  # Python reads 4300 digits
        ("a.json", '[{"q": "x"},\n {"q": }]', ":2:8", "broken"),
        ("a.json", '[{"q": "x"},\n "q"]', ":2:2", "not a JSON object"),
        ("a.json", f'[{{"q": 1}},\n{{"q": {"9" * 5000}}}]', ":2:1", "broken"),
        ("a.json", '[{"q": "x"}]\n[{"q": "y"}]', ":2:1", "Extra data"),
        ("a.json", '[{"q": "x"}', ":1:12", "no end"),
        ("a.json", "[", ":1:2", "Expecting value"),
        ("a.json", "[ ] x", ":1:5", "Extra data"),
        ("a.csv", "q,a\nx,1\ny\n", ":3:", "1 fields"),
        ("a.csv", 'q,a\nx,1\n"y,2\nz,3\n', ":3:", "not valid CSV from this row on (unexpected end of data)"),
        ("a.csv", 'q,a\nx,1\n"y" z,2\n', ":3:", "not valid CSV"),
        ("a.csv", "\n,,\nx,1,2\n", ":2:", "the header has no names"),
        ("a.csv", b"q,\xff\nx,1\n", ":1:", "the header is not UTF-8 text"),
        ("a.csv", b"q,a\nx,1\ny,\x81\xe9\n", ":3:", "not UTF-8 text"),
        ("a.jsonl", b'{"q": "x"}\n{"q": "\xff"}\n', ":2:", "UTF-8"),
        ("a.json", b'[{"q": "x"},\n {"q": "\xff"}]', ":1:", "UTF-8"),
        ("a.txt", b"x\n\xff\n", ":2:", "UTF-8"),
        ("a.jsonl", "", "a.jsonl", "empty"),
        ("a.jsonl", " \n", "a.jsonl", "empty"),
        ("a.json", "\ufeff \n", "a.json", "empty"),
        ("a.csv", "\n\n", "a.csv", "empty"),
        ("a.txt", "\n \n", "a.txt", "empty"),
        ("a.jsonl.gz", gzip.compress(b"", mtime=0), "a.jsonl.gz", "empty"),
        ("a.csv", "q,a\nx,1\n".encode("utf-16")[:-1], ":2:", "UTF-8"),  # half a character is missing
        ("a.jsonl", f'{{"q": "x"}}\n{"[" * 200_000}\n', ":2:", "nested too deeply"),
        ("a.json", f'[{{"q": "x"}},\n{"[" * 200_000}', ":2:1", "nested too deeply"),
    ],
)
def test_a_broken_file_is_refused_with_its_line(
    tmp_path: Path, name: str, content: str | bytes, place: str, says: str
) -> None:
    with pytest.raises(DataError) as caught:
        values(write(tmp_path, name, content))
    assert place in str(caught.value)
    assert says in str(caught.value)
    assert caught.value.fix
    assert caught.value.exit_code == 4


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32"])
@pytest.mark.parametrize("mark", [codecs.BOM_UTF8, b"", b"\x00"])
def test_a_file_of_another_encoding_than_the_config_says_has_unusable_rows(
    tmp_path: Path, encoding: str, mark: bytes
) -> None:
    path = write(tmp_path, "a.jsonl", mark + b'{"a": "it rains"}\n')
    with pytest.raises(DataError):
        list(read_rows(path, ReadOptions("json", encoding=encoding)))


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32"])
def test_the_encoding_of_the_config_needs_no_mark_in_the_file(tmp_path: Path, encoding: str) -> None:
    path = write(tmp_path, "a.csv", "q,a\nx,é\n".encode(f"{encoding}-le"))
    assert [row.values for row in scan(path, ReadOptions("csv", encoding=encoding))] == [{"q": "x", "a": "é"}]


@pytest.mark.parametrize("packing", PACKERS)
@pytest.mark.parametrize("damage", ["cut off", "overwritten", "not packed at all"])
def test_damage_in_a_packed_file_is_said_to_be_that(tmp_path: Path, packing: str, damage: str) -> None:
    whole = PACKERS[packing]("".join(f'{{"q": "{i * 7919 % 10007}"}}\n' for i in range(20_000)).encode())
    half = len(whole) // 2
    content = {
        "cut off": whole[:half],
        "overwritten": whole[:half] + b"\xff" * 100 + whole[half + 100 :],
        "not packed at all": LINES.encode(),
    }
    with pytest.raises(DataError, match="compressed file is corrupt") as caught:
        for _ in scan(write(tmp_path, f"a.jsonl{packing}", content[damage])):
            pass  # bytes that are wrong may make broken rows before it is known
    assert caught.value.fix == "download or compress it again"


def test_a_file_that_is_not_there_or_a_folder_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the data file does not exist"):
        values(tmp_path / "none.jsonl")
    (tmp_path / "folder.jsonl").mkdir()
    with pytest.raises(DataError, match="a folder, not a data file"):
        values(tmp_path / "folder.jsonl")


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        (
            "a.jsonl",
            b'{"q": 1}\n{"q": }\n{"q": 2}\n3\n{"q": "\xff"}\n\n{"q": 4}',
            [
                {"q": 1},
                "2:7 this row is not valid JSON (Expecting value)",
                {"q": 2},
                "4:0 this row is not a JSON object with column names",
                "5:0 this line is not UTF-8 text",
                {"q": 4},
            ],
        ),
        (
            "a.json",
            b'[{"q": 1}, 2,\n null, {"q": 3}]',
            [
                {"q": 1},
                "1:12 this row is not a JSON object with column names",
                "2:2 this row is not a JSON object with column names",
                {"q": 3},
            ],
        ),
        (
            "a.csv",
            b'q,a\nx,1\ny\n"z\nz",\xff\nu,1,2\nv,3\n',
            [
                {"q": "x", "a": "1"},
                "3:0 this row has 1 fields, but the header has 2",
                "4:0 this line is not UTF-8 text",
                "6:0 this row has 3 fields, but the header has 2",
                {"q": "v", "a": "3"},
            ],
        ),
        ("a.txt", b"x\n\xff\ny\n", [{"text": "x"}, "2:0 this line is not UTF-8 text", {"text": "y"}]),
    ],
)
def test_good_rows_go_on_behind_broken_ones(tmp_path: Path, name: str, content: bytes, expected: list[Any]) -> None:
    assert scanned(write(tmp_path, name, content)) == expected


LONG = b"x" * (LIMIT_BYTES + 1)


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.jsonl", b'{"q": 1}\n{"q": "' + LONG + b'"}\n{"q": 2}\n', [{"q": 1}, "2:0", {"q": 2}]),
        ("a.txt", b"one\n" + LONG + b"\ntwo\n", [{"text": "one"}, "2:0", {"text": "two"}]),
    ],
)
def test_a_line_of_more_than_16_mb_is_broken_and_those_behind_it_are_read(
    tmp_path: Path, name: str, content: bytes, expected: list[Any]
) -> None:
    found = scanned(write(tmp_path, name, content))
    assert [row.split()[0] if isinstance(row, str) else row for row in found] == expected
    assert "more than 16 MB" in found[1]


def test_an_object_or_a_field_of_more_than_16_mb_ends_the_reading(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r":2:1: .* more than 16 MB"):
        values(write(tmp_path, "a.json", b'[{"q": 1},\n{"q": "' + LONG + LONG + b'"}]'))
    with pytest.raises(DataError, match=r":3:1: .*it has more than 16 MB"):
        values(write(tmp_path, "a.csv", b'q\nx\n"' + LONG + b'"\n'))


@pytest.mark.parametrize("record", [b"x;" * 600, b"x\t" * 600, b"x|" * 600, b'"\n",' * 300, b'"' + b"x\n" * 600])
def test_a_record_that_is_too_long_ends_the_reading_of_a_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record: bytes
) -> None:
    monkeypatch.setattr(tables, "LIMIT_BYTES", 1000)
    with pytest.raises(DataError, match=r":2:1: .* more than"):
        values(write(tmp_path, "a.csv", b"q,r\n" + record))


def test_a_table_of_more_columns_than_a_table_has_is_refused(tmp_path: Path) -> None:
    file = write(tmp_path, "a.csv", b"x," * 100_000 + b"x\n1\n")
    with pytest.raises(DataError, match=r":1:1: .*100,001 columns") as refused:
        values(file)
    assert "`sep`" in str(refused.value.fix)


def test_a_paragraph_or_document_of_more_than_16_mb_is_broken_as_a_whole(tmp_path: Path) -> None:
    long = (b"x" * 4_000_000 + b"\n") * 5
    path = write(tmp_path, "a.txt", b"one\n\n" + long + b"\ntwo\n")
    by_paragraph = scanned(path, ReadOptions("text", sample_by="paragraph"))
    assert [by_paragraph[0], by_paragraph[2:]] == [{"text": "one"}, [{"text": "two"}]]
    assert by_paragraph[1] == "3:0 this row has more than 16 MB"
    assert scanned(path, ReadOptions("text", sample_by="document")) == ["1:0 this row has more than 16 MB"]


@pytest.mark.parametrize(
    ("sample_by", "expected"),
    [
        (
            "line",
            [{"text": "one"}, {"text": "two"}, "4:0 this line is not UTF-8 text", {"text": "two"}, {"text": "three"}],
        ),
        ("paragraph", [{"text": "one"}, "4:0 this line is not UTF-8 text", {"text": "three"}]),
        ("document", ["4:0 this line is not UTF-8 text"]),
    ],
)
def test_a_bad_line_leaves_no_hole_in_a_paragraph_or_document(
    tmp_path: Path, sample_by: Any, expected: list[Any]
) -> None:
    path = write(tmp_path, "a.txt", b"one\n\ntwo\nt\xffwo\ntwo\n\nthree\n")
    assert scanned(path, ReadOptions("text", sample_by=sample_by)) == expected


# -- arrays, part by part -----------------------------------------------------------------------------------------------------

ARRAY = (
    '[{"q": "a\\n\\u00e9\\"", "n": [1.5e3, -2, true, null]},\r\n\n {"t": {"ü😀": "]},"}} , {},\n{"long": "yes"}  ]\n'
)


@pytest.mark.parametrize("chunk", [1, 7, 40, 2**20])
def test_each_fault_in_an_array_is_found_where_the_whole_file_would_show_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    monkeypatch.setattr(Window, "CHUNK", chunk)
    assert values(write(tmp_path, "a.json", ARRAY)) == json.loads(ARRAY)
    damaged = [ARRAY[:at] + new + ARRAY[at + 1 :] for at in range(1, len(ARRAY)) for new in ("", "?", '"', "\n")]
    for text in damaged:
        path, fault = write(tmp_path, "b.json", text), fault_of(text)
        if not fault:
            assert [r for r in scan(path) if isinstance(r, Row)]
        elif "trailing comma" not in fault.msg:  # of which Python 3.13 shows the comma itself
            with pytest.raises(DataError) as caught:
                list(scan(path))
            assert f"b.json:{fault.lineno}:{fault.colno}: " in str(caught.value), text
    assert sum(map(bool, map(fault_of, damaged))) > 300


def fault_of(text: str) -> json.JSONDecodeError | None:
    try:
        json.loads(text)
    except json.JSONDecodeError as e:
        return e
    return None


@pytest.mark.parametrize(
    ("fault", "column"),
    [('{"q": }', 7), ('{"q": "x\ty"}', 9), ('{"q": "\\x"}', 8), ('{"q": 1', 8)],
)
def test_a_fault_beyond_the_first_megabyte_and_inside_a_string_is_found(
    tmp_path: Path, fault: str, column: int
) -> None:
    row = '{"q": "' + "ä" * 9990 + '"},\n'
    path = write(tmp_path, "a.json", f"[{row * 300}{fault}")
    with pytest.raises(DataError, match=rf"a\.json:301:{column}: error: invalid JSON"):
        values(path)
    rows = scan(path)
    assert sum(1 for _ in zip(range(300), rows, strict=False)) == 300


# -- memory -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "begin", "row", "end", "sample_by"),
    [
        ("a.jsonl.gz", "", '{{"q": "{}"}}\n', "", "line"),
        ("a.json.gz", "[", '{{"q": "{}"}},\n', "{}]", "line"),
        ("a.json.gz", "", '{{\n"q": "{}"\n}}\n', "", "line"),
        ("a.json.gz", '{"v": 1, "rows": [', '{{"q": "{}"}},\n', "{}]}", "line"),
        ("a.json.gz", '{"q": [', '"{}",\n', '"x"]}', "line"),
        ("a.csv.gz", "q,a\n", "{},1\n", "", "line"),
        ("a.txt.gz", "", "{}\n", "", "line"),
        ("a.txt.gz", "", "{}\n\n", "", "paragraph"),
    ],
)
def test_the_memory_does_not_grow_with_the_file(
    tmp_path: Path, name: str, begin: str, row: str, end: str, sample_by: Any
) -> None:
    path = write(tmp_path, name, gzip.compress((begin + row.format("word " * 2000) * 3000 + end).encode(), 1))
    how = ReadOptions(format_of(path), sample_by=sample_by)
    tracemalloc.start()
    try:
        count = sum(1 for _ in scan(path, how))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert count >= 3000
    assert peak < 15_000_000  # the file has 30 MB


def test_rows_under_a_key_are_read(tmp_path: Path) -> None:
    path = write(tmp_path, "a.json", '{"made": {"rows": []}, "rows":\n [{"q": 1},\n  {"q": 2}], "more": 1}')
    rows = list(read_rows(path, ReadOptions("json", field="rows")))
    assert [(row.values, row.line) for row in rows] == [({"q": 1}, 2), ({"q": 2}, 3)]
    for field, line in (("made", 1), ("none", 0)):
        with pytest.raises(DataError) as caught:
            list(read_rows(path, ReadOptions("json", field=field)))
        assert caught.value.where is not None
        assert caught.value.where.line == line


def test_columns_are_renamed_on_reading(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"How?": "x", "n.1": 1, "b": 2}\n{"How?": "y", "how": 3}\n', encoding="utf-8")
    options = ReadOptions("json", column_mapping=(("How?", "how"), ("n.1", "n_1")))
    good, bad = scan(path, options)
    assert isinstance(good, Row)
    assert good.values == {"how": "x", "n_1": 1, "b": 2}
    assert isinstance(bad, BadRow)
    assert (bad.where.line, "`how`" in bad.what) == (2, True)
    assert original_names(path, options) == {"how": "How?", "n_1": "n.1"}


def test_names_of_a_table_with_a_header_keep_those_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("How?,b\nx,1\n", encoding="utf-8")
    options = ReadOptions("csv", header=0, names=("how", "b"))
    assert [row.values for row in read_rows(path, options)] == [{"how": "x", "b": "1"}]
    assert original_names(path, options) == {"how": "How?"}
    assert original_names(path, ReadOptions("csv", names=("how", "b"))) == {}
