"""Data files: every good form is read, every fault is shown where it stands."""

from __future__ import annotations

from pathlib import Path

import pytest

from phi_runtime.data.columns import find_columns
from phi_runtime.data.rows import read_rows
from phi_runtime.errors import DataError


def write(tmp_path: Path, name: str, content: str | bytes) -> Path:
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", '{"q": "x, y", "a": "1"}\n\n{"q": "z", "a": "2"}\n'),
        ("bom-crlf.jsonl", '\ufeff{"q": "x, y", "a": "1"}\r\n{"q": "z", "a": "2"}\r\n'),
        ("lines-in.json", '{"q": "x, y", "a": "1"}\n{"q": "z", "a": "2"}'),
        ("array.json", '[{"q": "x, y", "a": "1"},\n {"q": "z", "a": "2"}]'),
        ("a.csv", 'q,a\n"x, y",1\nz,2\n'),
    ],
)
def test_every_form_of_the_same_rows_reads_alike(tmp_path: Path, name: str, content: str) -> None:
    rows = [r.values for r in read_rows(write(tmp_path, name, content))]
    assert rows == [{"q": "x, y", "a": "1"}, {"q": "z", "a": "2"}]


def test_a_line_separator_inside_a_string_does_not_end_the_row(tmp_path: Path) -> None:
    path = write(tmp_path, "a.jsonl", '{"q": "one\u2028two", "a": "1"}\n')
    assert [r.values["q"] for r in read_rows(path)] == ["one\u2028two"]


def test_a_csv_field_may_hold_line_breaks_and_the_next_row_keeps_its_line_number(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", 'q,a\n"x\ny",1\nz,2\n')
    assert [(r.values["q"], r.line) for r in read_rows(path)] == [("x\ny", 2), ("z", 4)]


@pytest.mark.parametrize(
    ("name", "content", "place", "says"),
    [
        ("a.jsonl", '{"q": "x"}\n{"q": \n', ":2:", "not JSON"),
        ("a.jsonl", '{"q": "x"}\n["q"]\n', ":2:", "not a JSON object"),
        ("a.json", '[{"q": "x"},\n {"q": }]', ":2:8", "broken"),
        ("a.csv", "q,a\nx,1\ny\n", ":3:", "1 fields"),
        ("a.jsonl", b'{"q": "x"}\n{"q": "\xff"}\n', ":2:", "UTF-8"),
        ("a.jsonl", " \n", "a.jsonl", "empty"),
        ("a.txt", "x", "a.txt", "format"),
    ],
)
def test_a_broken_file_is_refused_with_its_line(
    tmp_path: Path, name: str, content: str | bytes, place: str, says: str
) -> None:
    with pytest.raises(DataError) as caught:
        list(read_rows(write(tmp_path, name, content)))
    assert place in str(caught.value)
    assert says in str(caught.value)
    assert caught.value.exit_code == 4


def test_a_file_that_is_not_there_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such data file"):
        list(read_rows(tmp_path / "none.jsonl"))


@pytest.mark.parametrize(
    ("row", "answer"),
    [
        ('{"text": "a", "label": "b"}', "label"),
        ('{"Answer": "a", "question": "b"}', "Answer"),
        ('{"label": "a", "context": "b", "question": "c"}', "label"),
    ],
)
def test_the_answer_is_found_by_its_usual_names(tmp_path: Path, row: str, answer: str) -> None:
    assert find_columns(write(tmp_path, "a.jsonl", row + "\n")).answer == answer


def test_of_two_unknown_columns_the_one_that_repeats_is_the_answer(tmp_path: Path) -> None:
    rows = "".join(f'{{"mood": "{"up" if i % 2 else "down"}", "said": "phrase {i}"}}\n' for i in range(30))
    found = find_columns(write(tmp_path, "a.jsonl", rows))
    assert (found.inputs, found.answer, found.labels, found.rows) == (("said",), "mood", ("down", "up"), 30)


def test_three_unknown_columns_need_to_be_named(tmp_path: Path) -> None:
    path = write(tmp_path, "a.jsonl", '{"x": "1", "y": "2", "z": "3"}\n')
    with pytest.raises(DataError) as caught:
        find_columns(path)
    assert "--columns" in caught.value.fix
    assert find_columns(path, ("x", "z")).inputs == ("x",)


@pytest.mark.parametrize(
    ("second", "says"),
    [
        ('{"q": "x"}', "no column `a`"),
        ('{"q": "x", "a": ""}', "empty"),
        ('{"q": "x", "a": null}', "None"),
        ('{"q": "x", "a": ["y"]}', "text is expected"),
        ('{"q": "x", "a": NaN}', "text is expected"),
        ('{"q": true, "a": "y"}', "text is expected"),
    ],
)
def test_a_row_without_usable_text_is_refused_with_its_line(tmp_path: Path, second: str, says: str) -> None:
    path = write(tmp_path, "a.jsonl", '{"q": "x", "a": "y"}\n' + second + "\n")
    with pytest.raises(DataError, match=says) as caught:
        find_columns(path, ("q", "a"))
    assert ":2:" in str(caught.value)
