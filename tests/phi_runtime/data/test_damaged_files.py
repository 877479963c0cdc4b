"""Damaged files of every format: each becomes rows or a located error, whatever its bytes are."""

from __future__ import annotations

import gzip
import io
import json
import zipfile
from pathlib import Path
from random import Random

import openpyxl
import pytest

from phi_runtime.config.file_formats import format_of
from phi_runtime.core.errors import DataError
from phi_runtime.data import tables
from phi_runtime.data.file_form import file_form
from phi_runtime.data.rows import BadRow, ReadOptions, scan

LINES = [
    ("text", "label"),
    ("it rains, a lot", "cold"),
    ("the «sun» é", "warm"),
    ("猫 at home", "warm"),
    ("frost", "cold"),
]
RECORDS = [dict(zip(LINES[0], line, strict=True)) for line in LINES[1:]]


def _workbook() -> bytes:
    book, file = openpyxl.Workbook(), io.BytesIO()
    for line in [*LINES, ("=1+1", 3)]:
        book.active.append(line)
    book.save(file)
    return file.getvalue()


FILES = {
    "a.csv": "\n".join(";".join(line) for line in LINES).encode(),
    "b.csv": "\r\n".join("\t".join(line) for line in LINES).encode("utf-16"),
    "c.csv": b'sep=|\na|b\n"x\ny"|"1 ""2"""\n',
    "d.tsv": "\n".join("\t".join(line) for line in LINES).encode("cp1252", "replace"),
    "a.jsonl": "\n".join(map(json.dumps, RECORDS)).encode(),
    "b.jsonl": "\n".join(json.dumps(record, indent=1) for record in RECORDS).encode(),
    "a.json": json.dumps(RECORDS, indent=1).encode(),
    "b.json": json.dumps({"v": {"x": 1}, "rows": RECORDS}).encode(),
    "c.json": json.dumps({key: {str(i): r[key] for i, r in enumerate(RECORDS)} for key in LINES[0]}).encode(),
    "a.txt": "Größe\n\nnaïve\n".encode("cp1252"),
    "a.jsonl.gz": gzip.compress(b'{"a": 1}\n' * 5, mtime=0),
    "a.xlsx": _workbook(),
}
PIECES = [
    b"\0", b"\xff", b"\xe9", b"\xef\xbb\xbf", b"\xff\xfe", b'"', b"'", b"\\", b"\n", b"\r", b",", b";", b"{", b"}", b"[", b"]",
    b":", b"NaN", b"1e999", b"9" * 5000, b"\\ud800", b"\\N", b"[" * 100_000, b'{"a":' * 1000, b"sep=,\n", b"<f>1</f>", b"null",
]  # fmt: skip
ENCODINGS = ("utf-16", "utf-16-be", "utf-32", "cp1252", "gbk", "utf-8-sig")


def damaged(random: Random, content: bytes) -> bytes:
    for _ in range(random.choice((1, 1, 2, 4))):
        start = random.randrange(len(content) + 1)
        end = min(len(content), start + random.choice((0, 1, 5, 100)))
        piece = random.choice((b"", random.choice(PIECES), random.randbytes(end - start), content[start:end] * 3))
        content = random.choice((content[:start], content[start:], content[:start] + piece + content[end:]))
        if random.random() < 0.1:
            content = content.decode("utf-8", "replace").encode(random.choice(ENCODINGS), "replace")
    return content


def damaged_archive(random: Random, content: bytes) -> bytes:
    """Damage one file inside a workbook."""
    changed = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(changed, "w") as new:
        chosen = random.choice(old.namelist())
        for name in old.namelist():
            new.writestr(name, damaged(random, old.read(name)) if name == chosen else old.read(name))
    return changed.getvalue()


@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_gives_rows_or_a_located_error(tmp_path: Path, name: str) -> None:
    random, path = Random(name), tmp_path / name
    for _ in range(30):
        damage = damaged_archive if name.endswith(".xlsx") and random.random() < 0.8 else damaged
        path.write_bytes(damage(random, FILES[name]))
        try:
            errors = [row.error for row in scan(path) if isinstance(row, BadRow)]
            file_form(path, ReadOptions(format_of(path)), find_names=True)
        except DataError as e:
            errors = [e]
        assert all(e.where is not None and Path(e.where.path) == path and e.what for e in errors)


@pytest.mark.parametrize("row", [b"a" * 2000, b"a," * 1000, b'"' + b"a\n" * 1000])
def test_a_row_of_a_table_is_bounded_as_one_of_json_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, row: bytes
) -> None:
    monkeypatch.setattr(tables, "LIMIT_BYTES", 1000)
    file = tmp_path / "a.csv"
    file.write_bytes(b"text,label\nrain,cold\n" + row)
    rows = scan(file)
    assert next(rows).values == {"text": "rain", "label": "cold"}
    with pytest.raises(DataError) as refused:
        list(rows)
    assert str(refused.value.where).startswith(f"{file}:3")


def test_a_parquet_text_that_is_not_utf_8_is_a_bad_row_and_the_others_are_read(tmp_path: Path) -> None:
    """Arrow does not check: some writers put bytes of another encoding into text columns."""
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    offsets, texts = pyarrow.py_buffer(b"\0\0\0\0\2\0\0\0\4\0\0\0\5\0\0\0"), pyarrow.py_buffer(b"ab\xff\xfec")
    column = pyarrow.Array.from_buffers(pyarrow.string(), 3, [None, offsets, texts])
    parquet.write_table(pyarrow.table({"text": column}), tmp_path / "a.parquet")
    first, second, third = scan(tmp_path / "a.parquet")
    assert (first.values, third.values) == ({"text": "ab"}, {"text": "c"})
    assert isinstance(second, BadRow)
    assert second.where.line == 2
