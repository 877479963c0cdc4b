"""A data config's split and filters choose the same rows as Hugging Face's datasets, in the order of the files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from phi_runtime.data.selection import boundaries, select_rows
from phi_runtime.errors import DataError
from phi_runtime.workflow.schema import LoadDataset


def load(data_name: str = "json", **others: Any) -> LoadDataset:
    return LoadDataset.model_validate({"data_name": data_name, "data_files": "not read here", **others})


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
        ("train[:50%]", 5, (0, 2)),  # 2.5 goes to the even neighbour, as Python's round has it
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
    with pytest.raises(DataError, match=r"more than 100 %"):
        boundaries("train[:150%]", 10)


def test_several_files_are_read_one_after_the_other_and_sliced_as_one(tmp_path: Path) -> None:
    one = write(tmp_path / "one.jsonl", {"t": "a"}, {"t": "b"}, {"t": "c"})
    two = write(tmp_path / "two.jsonl", {"t": "d"}, {"t": "e"})
    chosen = select_rows(load(split="train[1:4]"), [one, two])
    assert [(path.name, row.line, row.values["t"]) for path, row in chosen] == [
        ("one.jsonl", 2, "b"),
        ("one.jsonl", 3, "c"),
        ("two.jsonl", 1, "d"),
    ]


def test_a_broken_row_is_shown_in_its_own_file(tmp_path: Path) -> None:
    one = write(tmp_path / "one.jsonl", {"t": "a"})
    two = tmp_path / "two.jsonl"
    two.write_text('{"t": "b"}\n{"t": \n', encoding="utf-8")
    with pytest.raises(DataError, match=r"two\.jsonl:2:"):
        select_rows(load(), [one, two])


def test_filters_keep_the_rows_that_hold_the_very_values_after_the_slice(tmp_path: Path) -> None:
    rows = [{"n": 1, "s": "x"}, {"n": 1, "s": "X"}, {"n": "1", "s": "x"}, {"n": 1, "s": "x"}]
    path = write(tmp_path / "a.jsonl", *rows)

    def lines(**chosen: Any) -> list[int]:
        return [row.line for _, row in select_rows(load(**chosen), [path])]

    assert lines(col_filters={"n": 1, "s": "x"}) == [1, 4]
    assert lines(col_filters={"n": "1"}) == [3]
    assert lines(col_filters={"s": "x"}, split="train[:2]") == [1]


def test_cells_of_a_csv_file_are_compared_in_the_type_of_the_filter(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("year,ok,t\n2020,true,a\n2021,True,b\n2020,false,c\nnone,,d\n", encoding="utf-8")

    def texts(**filters: Any) -> list[str]:
        return [row.values["t"] for _, row in select_rows(load("csv", col_filters=filters), [path])]

    assert texts(year=2020) == ["a", "c"]
    assert texts(year="2020") == ["a", "c"]
    assert texts(year=2020.0, ok=True) == ["a"]
    assert texts(ok=False) == ["c"]


def test_a_filter_on_a_column_that_a_row_does_not_have_points_at_the_row(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", {"t": "a", "lang": "en"}, {"t": "b"})
    with pytest.raises(DataError, match=r"a\.jsonl:2:1: error: this row has no column `lang`") as caught:
        select_rows(load(col_filters={"lang": "en"}), [path])
    assert caught.value.fix == "it has t"


@pytest.mark.parametrize(
    ("chosen", "says"),
    [
        ({"split": "train[5:]"}, r"`train\[5:\]` leaves none of the 2 rows"),
        ({"split": "train[:10%]"}, r"`train\[:10%\]` leaves none of the 2 rows"),
        ({"col_filters": {"t": "x", "n": 3}}, "none of 2 rows holds t = 'x', n = 3"),
    ],
)
def test_a_choice_that_leaves_nothing_is_refused_with_the_counts(
    tmp_path: Path, chosen: dict[str, Any], says: str
) -> None:
    path = write(tmp_path / "a.jsonl", {"t": "a", "n": 1}, {"t": "b", "n": 2})
    with pytest.raises(DataError, match=says):
        select_rows(load(**chosen), [path])
