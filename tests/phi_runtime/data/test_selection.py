"""A data config's split and filters choose the same rows as Hugging Face's datasets, in the order of the files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from phi_runtime.config.schema import LoadDataset
from phi_runtime.core.errors import DataError
from phi_runtime.data import selection
from phi_runtime.data.rows import BadRow
from phi_runtime.data.selection import SelectedRow, boundaries, read_options, select


def load(data_name: str = "json", **others: Any) -> LoadDataset:
    return LoadDataset.model_validate({"data_name": data_name, "data_files": "not read here", **others})


def chosen(load: LoadDataset, *files: Path) -> list[SelectedRow]:
    """The rows that are chosen, all of which can be read."""
    rows = list(select(load, files))
    assert not any(isinstance(row, BadRow) for row in rows)
    return [row for row in rows if isinstance(row, SelectedRow)]


def write(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("split", "rows", "expected"),  # as datasets 5.2.0 has them
    [
        ("train", 15, (0, 15)),
        ("train[:]", 15, (0, 15)),
        ("train[:90%]", 15, (0, 14)),
        ("train[90%:]", 15, (14, 15)),
        ("train[:50%]", 3, (0, 2)),
        ("train[:50%]", 5, (0, 2)),  # 2.5 goes to the even neighbor, as Python's round has it
        ("train[33%:66%]", 10, (3, 7)),
        ("train[-10%:]", 15, (13, 15)),
        ("train[:-10%]", 15, (0, 13)),
        ("train[10:20%]", 100, (10, 20)),  # one % sign means both
        ("train[10:20]", 15, (10, 15)),
        ("train[10:20]", 100, (10, 20)),
        ("train[-100:]", 15, (0, 15)),
        ("train[-5:-2]", 15, (10, 13)),
        ("test[3:]", 15, (3, 15)),
    ],
)
def test_a_slice_has_the_boundaries_that_datasets_gives_it(split: str, rows: int, expected: tuple[int, int]) -> None:
    assert boundaries(split, rows) == expected


def test_two_slices_that_meet_share_no_row_and_lose_none() -> None:
    for rows in range(1, 50):
        for percent in range(0, 101, 7):
            assert boundaries(f"train[:{percent}%]", rows)[1] == boundaries(f"train[{percent}%:]", rows)[0]


def test_more_than_all_rows_in_percent_is_refused() -> None:
    with pytest.raises(DataError, match=r"exceeds 100 %"):
        boundaries("train[:150%]", 10)


def test_several_files_are_read_one_after_the_other_and_sliced_as_one(tmp_path: Path) -> None:
    one = write(tmp_path / "one.jsonl", {"t": "a"}, {"t": "b"}, {"t": "c"})
    two = write(tmp_path / "two.jsonl", {"t": "d"}, {"t": "e"})
    for split in ("train[1:4]", "train[-4:-1]", "train[20%:80%]"):
        found = [(row.path.name, row.row.line, row.number) for row in chosen(load(split=split), one, two)]
        assert found == [("one.jsonl", 2, 1), ("one.jsonl", 3, 2), ("two.jsonl", 1, 3)]


def test_what_is_behind_a_slice_is_not_read(tmp_path: Path) -> None:
    one = write(tmp_path / "one.jsonl", {"t": "a"}, {"t": "b"})
    with one.open("a", encoding="utf-8") as file:
        file.write("broken\n")
    assert len(chosen(load(split="train[:2]"), one, tmp_path / "none.jsonl")) == 2


@pytest.mark.parametrize(
    ("split", "readings"), [("train", 1), ("train[2:3]", 1), ("train[-1:]", 2), ("train[50%:]", 2)]
)
def test_files_are_read_twice_only_where_all_rows_must_be_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, split: str, readings: int
) -> None:
    path, read, scan = write(tmp_path / "a.jsonl", *[{"t": "a"}] * 4), [], selection.scan
    monkeypatch.setattr(selection, "scan", lambda *of: read.append(of) or scan(*of))  # type: ignore[func-returns-value]
    assert chosen(load(split=split), path)
    assert len(read) == readings


def test_a_broken_row_keeps_its_place_in_its_own_file_and_counts_in_a_slice(tmp_path: Path) -> None:
    one = write(tmp_path / "one.jsonl", {"t": "a"})
    two = tmp_path / "two.jsonl"
    two.write_text('{"t": "b"}\n{"t": \n{"t": "c"}\n{"t": "d"}', encoding="utf-8")
    rows = list(select(load(split="train[1:4]"), [one, two]))
    assert [(row.where.path, row.where.line, isinstance(row, BadRow)) for row in rows] == [
        (two, 1, False),
        (two, 2, True),
        (two, 3, False),
    ]
    assert [row.where.line for row in select(load(split="train[:50%]"), [two])] == [1, 2]


def test_filters_keep_the_rows_that_hold_the_very_values_after_the_slice(tmp_path: Path) -> None:
    rows = [{"n": 1, "s": "x"}, {"n": 1, "s": "X"}, {"n": "1", "s": "x"}, {"n": 1, "s": "x"}]
    path = write(tmp_path / "a.jsonl", *rows)

    def lines(**others: Any) -> list[int]:
        return [found.row.line for found in chosen(load(**others), path)]

    assert lines(col_filters={"n": 1, "s": "x"}) == [1, 4]
    assert lines(col_filters={"n": "1"}) == [3]
    assert lines(col_filters={"s": "x"}, split="train[:2]") == [1]


def test_cells_of_a_csv_file_are_compared_in_the_type_of_the_filter(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("year,ok,t\n2020,true,a\n2021,True,b\n2020,false,c\nnone,,d\n", encoding="utf-8")

    def texts(**filters: Any) -> list[str]:
        return [found.row.values["t"] for found in chosen(load("csv", col_filters=filters), path)]

    assert texts(year=2020) == ["a", "c"]
    assert texts(year="2020") == ["a", "c"]
    assert texts(year=2020.0, ok=True) == ["a"]
    assert texts(ok=False) == ["c"]


def test_a_filter_on_a_column_that_a_row_does_not_have_makes_the_row_broken(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", {"t": "a", "lang": "en"}, {"t": "b"}, {"t": "c", "lang": "de"})
    first, second = select(load(col_filters={"lang": "en"}), [path])
    assert isinstance(first, SelectedRow)
    assert isinstance(second, BadRow)
    assert (second.where.line, second.what) == (2, "this row has no column `lang` to filter by")
    assert second.fix == "it has t"


@pytest.mark.parametrize(
    ("others", "says"),
    [
        ({"split": "train[5:]"}, r"`train\[5:\]` selects none of the 2 rows"),
        ({"split": "train[:10%]"}, r"`train\[:10%\]` selects none of the 2 rows"),
        ({"split": "train[2:1]"}, r"`train\[2:1\]` selects none of the 2 rows"),
        ({"col_filters": {"t": "x", "n": 3}}, "none of 2 rows has t = 'x', n = 3"),
    ],
)
def test_a_choice_that_leaves_nothing_is_refused_with_the_counts(
    tmp_path: Path, others: dict[str, Any], says: str
) -> None:
    path = write(tmp_path / "a.jsonl", {"t": "a", "n": 1}, {"t": "b", "n": 2})
    with pytest.raises(DataError, match=says):
        chosen(load(**others), path)


def test_an_array_without_a_row_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("[ ]", encoding="utf-8")
    with pytest.raises(DataError, match="the data file has no row"):
        chosen(load(), path)


def test_the_format_is_that_of_the_config_whatever_the_ending_and_of_a_hub_data_set_that_of_its_file() -> None:
    text = load("text", sample_by="paragraph")
    assert (read_options(text, Path("a.md")).format, read_options(text, Path("a.md")).sample_by) == (
        "text",
        "paragraph",
    )
    assert read_options(load("csv", sep="|"), Path("rows")).sep == "|"
    assert read_options(load("own/set"), Path("a.jsonl")).format == "json"
