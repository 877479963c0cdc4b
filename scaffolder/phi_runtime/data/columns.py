"""What a data file holds: conversations, questions and answers in columns, or free text; and how long they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from phi_runtime.core.errors import DataError, Location
from phi_runtime.data.chat import ChatFault, messages_of, text_of
from phi_runtime.data.rows import Reading, Row, read_rows
from phi_runtime.data.template import PromptTemplate, RowFault

Kind = Literal["columns", "chat", "text"]

CHAT_NAMES = ("messages", "conversations", "conversation", "dialogue", "dialog")
TEXT_NAMES = ("text", "content", "document", "body")
ALPACA = ("instruction", "input", "output")
ANSWER_NAMES = (
    "completion",
    "answer",
    "output",
    "response",
    "target",
    "label",
    "summary",
    "record",
    "reply",
    "tone",
    "sentiment",
    "category",
    "class",
)
_MANY = 1000  # different answers from which on they are no labels, whatever the number of rows


@dataclass(frozen=True)
class Columns:
    """What is asked and what is the answer. `kind` chat: `inputs` and `answer` are the column of the conversations; text: there is
    an `answer` alone. `labels` are the distinct answers when there are few, else empty. `longest` and `longest_answer` are in
    characters."""

    inputs: tuple[str, ...]
    answer: str
    rows: int
    labels: tuple[str, ...]
    kind: Kind = "columns"
    longest: int = 0
    longest_answer: int = 0


def column_names(path: Path, reading: Reading | None = None) -> list[str]:
    """The columns of the first row. Raises DataError as `read_rows` does."""
    for row in read_rows(path, reading):
        return list(row.values)
    raise _no_row(path)


def find_columns(path: Path, chosen: Sequence[str] = ()) -> Columns:
    """Reads the whole file and says what it holds.

    `chosen` are column names with the answer last; without them, the answer is the column with a usual name for one, else the
    one of two columns that holds fewer different values. Raises DataError for a broken row, and when no answer can be told.
    """
    first = next(iter(read_rows(path)), None)
    if first is None:
        raise _no_row(path)
    names = list(first.values)
    for name in chosen:
        if name not in names:
            raise DataError(
                f"there is no column `{name}`", where=Location(path), fix=f"the columns are {', '.join(names)}"
            )
    chats = [name for name in CHAT_NAMES if name in names and isinstance(first.values[name], list)]
    if chats and not chosen:
        return _conversations(path, chats[0])
    texts = [name for name in names if len(names) == 1 and name.casefold() in TEXT_NAMES]
    answer = chosen[-1] if chosen else texts[0] if texts else _answer(path, names)
    inputs = tuple(chosen[:-1]) if chosen else () if texts else _inputs(path, names, answer)
    return _measured(path, inputs, answer)


def _measured(path: Path, inputs: tuple[str, ...], answer: str) -> Columns:
    template = PromptTemplate.from_text("".join(f"{{{c}}}" for c in (*inputs, answer)))
    count = longest = longest_answer = 0
    answers: set[str] = set()
    for row in read_rows(path):
        try:
            template.check(row.values)
        except RowFault as e:
            raise DataError(str(e), where=Location(path, row.line), fix=e.fix) from None
        count += 1
        said = len(str(row.values[answer]))
        longest_answer = max(longest_answer, said)
        longest = max(longest, said + sum(len(str(row.values[c])) for c in inputs))
        if len(answers) <= _MANY:
            answers.add(str(row.values[answer]).strip())
    few = bool(inputs) and len(answers) < count and len(answers) <= max(2, min(50, count // 5))
    labels = tuple(sorted(answers)) if few else ()
    return Columns(inputs, answer, count, labels, "columns" if inputs else "text", longest, longest_answer)


def _conversations(path: Path, column: str) -> Columns:
    count = longest = longest_answer = 0
    for row in read_rows(path):
        try:
            said = [len(text_of(m)) for m in messages_of(row.values.get(column), row.values.get("system"))]
        except ChatFault as e:
            fix = "mend or remove that row"
            raise DataError(f"`{column}` {e}", where=Location(path, row.line), fix=fix) from None
        count, longest, longest_answer = count + 1, max(longest, sum(said)), max(longest_answer, said[-1])
    return Columns((column,), column, count, (), "chat", longest, longest_answer)


def _inputs(path: Path, names: list[str], answer: str) -> tuple[str, ...]:
    """The columns that are asked: all but the answer, less those that are empty in every row."""
    asked = [n for n in (ALPACA if {"instruction", "output"} <= set(names) else names) if n in names and n != answer]
    empty = set(asked)
    for row in read_rows(path):
        empty -= {name for name in empty if _says_something(row, name)}
        if not empty:
            break
    return tuple(n for n in asked if n not in empty) or tuple(asked)


def _says_something(row: Row, name: str) -> bool:
    value: Any = row.values.get(name, name)
    return not isinstance(value, str) or bool(value.strip())


def _answer(path: Path, names: list[str]) -> str:
    if len(names) < 2:
        raise DataError(
            f"one column (`{''.join(names)}`) is not enough: a row needs what is asked and the answer",
            where=Location(path),
            fix=f"call it `{TEXT_NAMES[0]}` if it is free text to learn from",
        )
    folded = {n.casefold(): n for n in names}
    for usual in ANSWER_NAMES:
        if usual in folded:
            return folded[usual]
    if len(names) == 2:
        first, second = _different(path, names)
        return names[0] if first < second else names[1]
    raise DataError(
        f"cannot tell which of the columns {', '.join(names)} is the answer",
        where=Location(path),
        fix="name them, the answer last: --columns question,context,reply",
    )


def _different(path: Path, names: list[str]) -> list[int]:
    """How many different values each column has."""
    values: list[set[str]] = [set() for _ in names]
    for row in read_rows(path):
        for seen, name in zip(values, names, strict=True):
            seen.add(str(row.values.get(name)))
        if min(map(len, values)) > _MANY:
            break
    return [len(seen) for seen in values]


def _no_row(path: Path) -> DataError:
    return DataError("the data file has no row", where=Location(path), fix="put at least one row into it")
