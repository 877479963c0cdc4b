"""The content of a data file is detected from its columns and values, with the lengths of its texts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from phi_runtime.core.errors import DataError
from phi_runtime.data.columns import Columns, find_columns, first_row
from phi_runtime.data.longest import size_of
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
    assert "--columns words" in caught.value.fix
    assert find_columns(write(tmp_path, {"words": "abc"}), ("words",)).kind == "text"


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
        ("messages",), "messages", 2, (), kind="chat", longest=16, longest_answer=3, unused=(("id", ""),), questions=2
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
        ('{"q": {}, "a": "y"}', "expected text"),
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
    assert list(first_row(path, ReadOptions("csv", ";")).values) == ["q", "a"]
    path.write_text("q;a\n", encoding="utf-8")
    with pytest.raises(DataError, match="no row"):
        first_row(path)


PEOPLE = ("Ann Lee", "Bo Fox", "Cy Day")


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("", lambda i: str(i), "row numbers"),
        ("Unnamed: 0", lambda i: str(i), "row numbers"),
        ("line", lambda i: i + 7, "row numbers"),
        ("ID", lambda i: f"T-{i % 3}", "an id"),
        ("ticket_id", lambda i: f"T-{i}", "an id"),
        ("ref", lambda i: f"0f8fad5b-d9cb-469f-a165-70867728{i:04x}", "an id"),
        ("Timestamp", lambda i: f"2024/01/{i + 1} 3:0{i % 10}:12 PM GMT+1", "a time"),
        ("created_at", lambda i: f"2024-01-{i + 1:02}T10:00:00.5Z", "a time"),
        ("Last updated", lambda i: f"{i + 1}/2/2023", "a time"),
        ("Date", lambda i: f"Mon, {i + 1:02} Jan 2023 10:00:00 +0000", "a time"),
        ("Submitted", lambda i: f"Feb {i + 1}, 2023", "a time"),
        ("Last edited by", lambda i: PEOPLE[i % 3], "a person"),
        ("Email Address", lambda i: f"u{i % 3}@example.org", "a person"),
        ("contact", lambda i: f"u{i % 3}@example.org", "an email address"),
        ("lang", lambda _: "en", "the same in all rows"),
        ("extra", lambda i: {"a": i}, "not text"),
        ("notes", lambda _: " ", "empty"),
        ("quality_score", lambda i: i % 4 / 2, "a score"),
        ("token_count", lambda i: i * i, "a count"),
        ("page", lambda i: f"https://example.org/{i}", "a URL"),
        ("source", lambda i: "ab"[i % 2], "describes the row"),
    ],
)
def test_a_column_that_carries_no_part_of_the_question_is_not_used_and_has_a_reason(
    tmp_path: Path, name: str, value: Callable[[int], Any], reason: str
) -> None:
    rows = [{name: value(i), "question": f"What is {i}?", "answer": f"It is {i}."} for i in range(10)]
    found = find_columns(write(tmp_path, *rows))
    assert (found.inputs, found.answer, found.unused) == (("question",), "answer", ((name, reason),))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("context", lambda _: "The same short passage."),
        ("passage", lambda _: "One long text that every question of the file is about, such as a manual."),
        ("key_facts", lambda i: f"fact {i}"),
        ("due", lambda i: f"2024-01-{i + 1:02}"),
        ("price", lambda i: i * 3),
        ("written by", lambda i: f"a long text by someone, number {i}"),
        ("language", lambda i: ("de", "fr")[i % 2]),
        ("hint", lambda i: "be brief" if i % 2 else ""),
    ],
)
def test_a_column_that_may_carry_a_part_of_the_question_is_used(
    tmp_path: Path, name: str, value: Callable[[int], Any]
) -> None:
    rows = [{name: value(i), "question": f"What is {i}?", "answer": f"It is {i}."} for i in range(10)]
    found = find_columns(write(tmp_path, *rows))
    assert (found.inputs, found.unused) == ((name, "question"), ())


def test_a_column_that_is_not_used_by_default_is_used_where_there_is_no_other(tmp_path: Path) -> None:
    rows = [{"id": i, "url": f"https://example.org/{i}", "category": "ab"[i % 2]} for i in range(10)]
    found = find_columns(write(tmp_path, *rows))
    assert (found.inputs, found.answer, found.unused) == (("url",), "category", (("id", "an id"),))


def test_a_score_is_the_answer_only_where_nothing_else_can_be(tmp_path: Path) -> None:
    def found(*names: str) -> Columns:
        rows = [{n: i % 5 if n == "rating" else f"{n} {i}" for n in names} for i in range(30)]
        return find_columns(write(tmp_path, *rows))

    assert (found("review", "rating").answer, found("review", "rating").labels) == ("rating", ("0", "1", "2", "3", "4"))
    assert (found("said", "reply", "rating").inputs, found("said", "reply", "rating").answer) == (("said",), "reply")
    with pytest.raises(DataError, match="cannot tell which of the columns `title`, `review`, `rating`") as caught:
        found("title", "review", "rating")
    assert "--columns title,review,rating" in caught.value.fix


def test_another_form_of_the_answer_is_not_in_the_prompt_and_its_text_is_preferred(tmp_path: Path) -> None:
    names = ("bad", "fair", "good")
    rows = [{"text": f"t {i}", "label": i % 3, "label_text": names[i % 3], "n": i % 2} for i in range(30)]
    found = find_columns(write(tmp_path, *rows))
    assert (found.inputs, found.answer, found.labels) == (("text", "n"), "label_text", names)
    assert found.unused == (("label", "the same as `label_text`"),)


def test_instructions_have_the_columns_of_alpaca_and_its_relatives_in_the_order_of_the_prompt(tmp_path: Path) -> None:
    row = {"instruction": "Add", "context": "1 and 2", "response": "three", "category": "sums", "system": "Be brief."}
    other = {"instruction": "Sum", "response": "four", "category": "more"}
    found = find_columns(write(tmp_path, *[row, other] * 5))
    assert (found.inputs, found.answer) == (("system", "instruction", "context"), "response")
    assert found.optional == ("system", "context")
    assert found.unused == (("category", "describes the row"),)


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_rows_that_kto_marks_as_bad_are_filtered(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    if suffix == "csv":
        path.write_text("prompt,completion,label\na,good,True\nb,a long bad one,False\nc,fine,True\n", encoding="utf-8")
    else:
        marked = [("a", "good", True), ("b", "a long bad one", False), ("c", "fine", True)]
        write(tmp_path, *[{"prompt": p, "completion": c, "label": mark} for p, c, mark in marked])
    found = find_columns(path)
    assert (found.inputs, found.answer, found.rows, found.filtered) == (("prompt",), "completion", 2, 1)
    assert (dict(found.filters), found.longest_answer, found.unused) == ({"label": True}, 4, ())


def test_conversations_that_kto_marks_as_bad_are_filtered(tmp_path: Path) -> None:
    def row(answer: str, mark: Any) -> dict[str, Any]:
        turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": answer}]
        return {"messages": turns, "kto_tag": mark, "source": "x"}

    found = find_columns(write(tmp_path, row("good", "true"), row("much worse", "false")))
    assert (found.rows, found.filtered, dict(found.filters)) == (1, 1, {"kto_tag": "true"})
    assert (found.longest_answer, found.unused) == (4, (("source", ""),))


CHAT = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]


@pytest.mark.parametrize(
    ("row", "says", "columns"),
    [
        ({"prompt": "a", "chosen": "b", "rejected": "c", "score": 1}, "`chosen`", "prompt,chosen"),
        ({"prompt": "a", "chosen": CHAT, "rejected": CHAT}, "preference data", "chosen"),
        ({"images": ["a.png"], "messages": CHAT}, "`images` is not text", "messages"),
        ({"image": "a/b.png", "question": "a", "answer": "b", "id": 1}, "`image`", "question,answer"),
        ({"audio": {"path": "a.wav"}, "text": "a"}, "`audio` is not text", "text"),
        ({"question": "a", "choices": ["b", "c"], "answer": "b"}, "`choices` is not text", "question,answer"),
        ({"question": "a", "answers": {"text": ["b"]}, "title": "t"}, "`answers` is not text", "question,title"),
        ({"text": "a", "labels": ["b"], "lang": "c"}, "`labels` is not text", "text,lang"),
        ({"prompt": "a", "hint": "b", "output": {"c": 1}}, "`output` is not text", "prompt,hint"),
    ],
)
def test_data_that_is_not_text_with_one_answer_is_refused_with_the_columns_that_can_be_trained(
    tmp_path: Path, row: dict[str, Any], says: str, columns: str
) -> None:
    path = write(tmp_path, row)
    with pytest.raises(DataError, match=says) as caught:
        find_columns(path)
    assert caught.value.fix.endswith(f"--columns {columns}")
    found = find_columns(path, columns.split(","))
    assert found.rows == 1
    assert {name for name, _ in found.unused} == row.keys() - {*columns.split(",")}


def test_columns_with_a_comma_or_a_space_are_proposed_as_the_shell_reads_them(tmp_path: Path) -> None:
    path = write(tmp_path, {"x, y": "1", "z a": "2", "w": "3"})
    with pytest.raises(DataError) as caught:
        find_columns(path)
    assert caught.value.fix.endswith("""--columns '"x, y",z a,w'""")


@pytest.mark.parametrize(("text", "size"), [("ascii 1", 7), ("é", 4), ("中文", 12), ("a😀", 9), ("", 0), ("\ud800", 2)])
def test_a_size_counts_characters_and_the_bytes_outside_ascii_twice(text: str, size: int) -> None:
    assert size_of(text) == size


def test_repeated_questions_and_labels_that_are_alike_are_remarked(tmp_path: Path) -> None:
    rows = [{"text": f"lamp {i // 2}", "label": ("warm", "cold")[i % 2]} for i in range(20)]
    found = find_columns(write(tmp_path, *rows, rows[0], rows[0], {"text": "odd", "label": "Warm"}))
    contradictory, repeated, alike, rare = found.remarks
    assert found.questions == 11
    assert "10 of 11" in contradictory
    assert "a.jsonl:1 and a.jsonl:2" in contradictory
    assert "`warm` and `Warm`" in alike
    assert "`Warm`" in rare
    assert repeated.startswith("2 of 23 rows")


def test_texts_with_several_answers_are_no_contradiction(tmp_path: Path) -> None:
    rows = [{"question": "hello", "answer": f"text {i}"} for i in range(30)]
    assert find_columns(write(tmp_path, *rows)).remarks == ()
    talks = [{"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": t}]} for t in "aab"]
    found = find_columns(write(tmp_path, *talks))
    assert (found.questions, found.remarks) == (1, ("1 of 3 rows repeat an earlier one",))


def test_ends_that_answers_write_are_no_part_of_the_labels(tmp_path: Path) -> None:
    rows = [{"text": f"lamp {i}", "label": ("warm<|im_end|>", "cold </s></s>")[i % 2]} for i in range(20)]
    found = find_columns(write(tmp_path, *rows))
    assert found.labels == ("cold", "warm")
    assert [remark.split("`")[:2] for remark in found.remarks] == [
        ["10 of 20 answers end with ", "<|im_end|>"],
        ["10 of 20 answers end with ", "</s>"],
    ]
    talk = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes<|im_end|>"}]
    assert "1 of 1 answers end with `<|im_end|>`" in find_columns(write(tmp_path, {"messages": talk})).remarks[0]


TURNS = [{"role": "user", "content": "12345"}, {"role": "assistant", "content": "123"}]


@pytest.mark.parametrize(
    ("row", "chosen", "columns"),
    [
        ({"id": 7, "talk": TURNS}, (), (("talk",), "talk")),
        ({"id": 7, "messages": json.dumps(TURNS)}, (), (("messages",), "messages")),
        ({"prompt": TURNS[:1], "completion": TURNS[1:]}, (), (("prompt",), "completion")),
        ({"prompt": TURNS[:1], "completion": "123"}, (), (("prompt",), "completion")),
        ({"history": TURNS[:0], "q": TURNS[:1], "a": "123"}, ("history", "q", "a"), (("history", "q"), "a")),
        ({"prompt": TURNS[:1], "chosen": TURNS[1:], "rejected": []}, ("prompt", "chosen"), (("prompt",), "chosen")),
    ],
)
def test_conversations_are_found_by_what_the_columns_hold(
    tmp_path: Path, row: dict[str, Any], chosen: tuple[str, ...], columns: tuple[tuple[str, ...], str]
) -> None:
    found = find_columns(write(tmp_path, row, row), chosen)
    assert (found.kind, found.rows, found.longest, found.longest_answer) == ("chat", 2, 8, 3)
    assert (found.inputs, found.answer) == columns


def test_the_better_of_two_answers_to_a_conversation_follows_its_prompt(tmp_path: Path) -> None:
    row = {"prompt": TURNS[:1], "chosen": TURNS[1:], "rejected": TURNS[1:]}
    with pytest.raises(DataError, match="preference data") as caught:
        find_columns(write(tmp_path, row))
    assert caught.value.fix.endswith("--columns prompt,chosen")


def test_the_size_of_a_conversation_counts_its_tools_and_calls(tmp_path: Path) -> None:
    call = {"function": {"name": "f", "arguments": {"a": "b" * 50}}}
    turns = [TURNS[0], {"role": "assistant", "content": None, "tool_calls": [call]}]
    found = find_columns(write(tmp_path, {"messages": turns, "tools": [{"name": "f", "description": "c" * 70}]}))
    assert found.longest_answer > 50
    assert found.longest > found.longest_answer + 70


def test_instructions_with_a_history_are_conversations(tmp_path: Path) -> None:
    row = {"instruction": "a", "input": "", "output": "b", "system": "s", "id": 1}
    rows: list[dict[str, Any]] = [row | {"history": []}, row | {"history": [["12345", "1"]]}]
    found = find_columns(write(tmp_path, *rows))
    assert (found.kind, found.inputs, found.answer) == ("chat", ("history", "instruction"), "output")
    assert (found.longest, {name for name, _ in found.unused}) == (9, {"input", "id"})
    assert find_columns(write(tmp_path, *rows), ("history", "instruction", "output")).kind == "chat"
    assert find_columns(write(tmp_path, *rows[:1])).kind == "columns"
