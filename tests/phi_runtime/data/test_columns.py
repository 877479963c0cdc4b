"""The content of a data file is detected from its columns and values, with the lengths of its texts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from phi_runtime.core.errors import DataError
from phi_runtime.data.columns import Columns, column_names, find_columns
from phi_runtime.data.rows import ReadOptions


def write(tmp_path: Path, *rows: str | dict[str, Any]) -> Path:
    path = tmp_path / "a.jsonl"
    path.write_text("".join(f"{r if isinstance(r, str) else json.dumps(r)}\n" for r in rows), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("row", "answer"),
    [
        ('{"text": "a", "label": "b"}', "label"),
        ('{"Answer": "a", "question": "b"}', "Answer"),
        ('{"label": "a", "context": "b", "question": "c"}', "label"),
        ('{"summary": "a", "document": "b"}', "summary"),
    ],
)
def test_the_answer_is_found_by_its_usual_names(tmp_path: Path, row: str, answer: str) -> None:
    assert find_columns(write(tmp_path, row)).answer == answer


def test_of_two_unknown_columns_the_one_that_repeats_is_the_answer(tmp_path: Path) -> None:
    rows = [{"mood": "up" if i % 2 else "down", "said": f"phrase {i}"} for i in range(30)]
    found = find_columns(write(tmp_path, *rows))
    assert (found.inputs, found.answer, found.labels, found.rows) == (("said",), "mood", ("down", "up"), 30)


def test_three_unknown_columns_need_to_be_named(tmp_path: Path) -> None:
    path = write(tmp_path, '{"x": "1", "y": "2", "z": "3"}')
    with pytest.raises(DataError) as caught:
        find_columns(path)
    assert "--columns" in caught.value.fix
    assert find_columns(path, ("x", "z")).inputs == ("x",)


def test_columns_that_are_named_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no column `w`") as caught:
        find_columns(write(tmp_path, '{"x": "1", "y": "2"}'), ("x", "w"))
    assert caught.value.fix == "the columns are x, y"


def test_one_column_is_free_text_by_its_name_alone(tmp_path: Path) -> None:
    assert find_columns(write(tmp_path, {"text": "abc"}, {"text": "defgh"})) == Columns(
        (), "text", 2, (), kind="text", longest=5, longest_answer=5
    )
    with pytest.raises(DataError, match=r"the only column is") as caught:
        find_columns(write(tmp_path, {"words": "abc"}))
    assert "rename it to `text`" in caught.value.fix


def test_alpaca_rows_ask_with_their_instruction_and_with_an_input_where_one_is_filled(tmp_path: Path) -> None:
    row = {"instruction": "Add", "input": "", "output": "three", "text": "Add three"}
    assert find_columns(write(tmp_path, row, row)).inputs == ("instruction",)
    found = find_columns(write(tmp_path, row, row | {"input": "1 and 2"}))
    assert (found.inputs, found.answer, found.kind) == (("instruction", "input"), "output", "columns")


def test_lengths_are_those_of_the_longest_row_and_answer(tmp_path: Path) -> None:
    rows = [{"question": "q" * 5, "answer": "a" * 9}, {"question": "q" * 30, "answer": "a"}]
    found = find_columns(write(tmp_path, *rows))
    assert (found.longest, found.longest_answer) == (31, 9)


@pytest.mark.parametrize("role", [("role", "content", "user", "assistant"), ("from", "value", "human", "gpt")])
def test_a_list_of_messages_is_a_conversation(tmp_path: Path, role: tuple[str, ...]) -> None:
    who, what, user, answers = role
    turns = [{who: user, what: "12345"}, {who: answers, what: "123"}]
    rows: list[dict[str, Any]] = [{"id": 7, "messages": turns}, {"id": 8, "messages": turns * 2}]
    assert find_columns(write(tmp_path, *rows)) == Columns(
        ("messages",), "messages", 2, (), kind="chat", longest=16, longest_answer=3
    )


def test_a_conversation_that_cannot_be_read_is_shown_with_its_line(tmp_path: Path) -> None:
    good = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    with pytest.raises(DataError, match=r"a\.jsonl:2:1: error: `messages` has no message of the assistant"):
        find_columns(write(tmp_path, good, {"messages": [{"role": "user", "content": "a"}]}))


def test_a_text_in_a_column_with_the_name_of_conversations_is_none(tmp_path: Path) -> None:
    found = find_columns(write(tmp_path, {"dialogue": "A: hi B: ho", "summary": "They greet."}))
    assert (found.kind, found.inputs, found.answer) == ("columns", ("dialogue",), "summary")


@pytest.mark.parametrize(
    ("second", "says"),
    [
        ('{"q": "x"}', "no column `a`"),
        ('{"q": "x", "a": ""}', "empty"),
        ('{"q": "x", "a": null}', "None"),
        ('{"q": "x", "a": ["y"]}', "expected text"),
        ('{"q": "x", "a": NaN}', "expected text"),
        ('{"q": true, "a": "y"}', "expected text"),
    ],
)
def test_a_row_without_usable_text_is_refused_with_its_line(tmp_path: Path, second: str, says: str) -> None:
    path = write(tmp_path, '{"q": "x", "a": "y"}', second)
    with pytest.raises(DataError, match=says) as caught:
        find_columns(path, ("q", "a"))
    assert ":2:" in str(caught.value)


def test_the_names_of_the_columns_are_those_of_the_first_row(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("q;a\nx;y\nbroken\n", encoding="utf-8")
    assert column_names(path, ReadOptions("csv", ";")) == ["q", "a"]
    path.write_text("q;a\n", encoding="utf-8")
    with pytest.raises(DataError, match="no row"):
        column_names(path)
