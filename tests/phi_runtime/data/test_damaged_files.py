"""Damaged files of every format: each becomes rows or a located error, whatever its bytes are."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest

from phi_runtime.config.file_formats import format_of
from phi_runtime.core.errors import DataError, Location
from phi_runtime.data import tables
from phi_runtime.data.file_form import file_form
from phi_runtime.data.rows import BadRow, ReadOptions, scan
from tests.mutations import FILES, damaged, damaged_archive


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


def test_a_parquet_column_whose_name_is_not_utf_8_is_a_located_error(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    file = tmp_path / "a.parquet"
    parquet.write_table(pyarrow.table({"text": ["rain"]}), file)
    file.write_bytes(file.read_bytes().replace(b"text", b"\xe5ext"))
    with pytest.raises(DataError, match="cannot be read") as refused:
        list(scan(file))
    assert refused.value.where == Location(file)
