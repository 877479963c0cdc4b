"""Detect the content of a data file: conversations, questions and answers in columns, or free text, and their lengths."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from phi_runtime.core.errors import DataError, Location
from phi_runtime.data.chat import ChatError, messages_of, text_of
from phi_runtime.data.files import no_rows
from phi_runtime.data.rows import ReadOptions, Row, read_rows
from phi_runtime.data.template import PromptTemplate, RowError

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
_MANY = 1000  # distinct answers that are too many for labels, whatever the number of rows


@dataclass(frozen=True)
class Columns:
    """The columns of a data file.

    Attributes:
        inputs: Columns of the question; for `kind` "chat" the column of the conversations, for "text" none.
        answer: Column of the answer.
        rows: Number of rows.
        labels: The distinct answers if there are few; else empty.
        longest, longest_answer: Length of the longest row and answer, in characters.
    """

    inputs: tuple[str, ...]
    answer: str
    rows: int
    labels: tuple[str, ...]
    kind: Kind = "columns"
    longest: int = 0
    longest_answer: int = 0


def column_names(path: Path, reading: ReadOptions | None = None) -> list[str]:
    """Return the columns of the first row. Raises DataError as `read_rows` does."""
    for row in read_rows(path, reading):
        return list(row.values)
    raise no_rows(path)


def find_columns(path: Path, chosen: Sequence[str] = (), more: Sequence[Path] = ()) -> Columns:
    """Read the whole file and detect its columns.

    Args:
        path: The data file.
        more: Further files with the same columns.
        chosen: Column names, the answer last. Without them the answer is the column with a usual name for one, else the
            one of two columns that has fewer distinct values.

    Raises:
        DataError: a row cannot be used, or no column can be recognized as the answer.
    """
    first = next(iter(read_rows(path)), None)
    if first is None:
        raise no_rows(path)
    names = list(first.values)
    for name in chosen:
        if name not in names:
            raise DataError(
                f"there is no column `{name}`", where=Location(path), fix=f"the columns are {', '.join(names)}"
            )
    chats = [name for name in CHAT_NAMES if name in names and isinstance(first.values[name], list)]
    if chats and not chosen:
        return _conversations((path, *more), chats[0])
    texts = [name for name in names if len(names) == 1 and name.casefold() in TEXT_NAMES]
    answer = chosen[-1] if chosen else texts[0] if texts else _answer(path, names)
    inputs = tuple(chosen[:-1]) if chosen else () if texts else _inputs(path, names, answer)
    return _measured((path, *more), inputs, answer)


def _measured(paths: Sequence[Path], inputs: tuple[str, ...], answer: str) -> Columns:
    template = PromptTemplate.from_text("".join(f"{{{c}}}" for c in (*inputs, answer)))
    count = longest = longest_answer = 0
    answers: set[str] = set()
    for path, row in ((file, row) for file in paths for row in read_rows(file)):
        try:
            template.check(row.values)
        except RowError as e:
            raise DataError(str(e), where=Location(path, row.line), fix=e.fix) from None
        count += 1
        length = len(str(row.values[answer]))
        longest_answer = max(longest_answer, length)
        longest = max(longest, length + sum(len(str(row.values[c])) for c in inputs))
        if len(answers) <= _MANY:
            answers.add(str(row.values[answer]).strip())
    few = bool(inputs) and len(answers) < count and len(answers) <= max(2, min(50, count // 5))
    labels = tuple(sorted(answers)) if few else ()
    return Columns(inputs, answer, count, labels, "columns" if inputs else "text", longest, longest_answer)


def _conversations(paths: Sequence[Path], column: str) -> Columns:
    count = longest = longest_answer = 0
    for path, row in ((file, row) for file in paths for row in read_rows(file)):
        try:
            lengths = [len(text_of(m)) for m in messages_of(row.values.get(column), row.values.get("system"))]
        except ChatError as e:
            raise DataError(f"`{column}` {e}", where=Location(path, row.line), fix="fix or remove this row") from None
        count, longest, longest_answer = count + 1, max(longest, sum(lengths)), max(longest_answer, lengths[-1])
    return Columns((column,), column, count, (), "chat", longest, longest_answer)


def _inputs(path: Path, names: list[str], answer: str) -> tuple[str, ...]:
    """Return all columns but the answer and those that are empty in every row."""
    inputs = [n for n in (ALPACA if {"instruction", "output"} <= set(names) else names) if n in names and n != answer]
    empty = set(inputs)
    for row in read_rows(path):
        empty -= {name for name in empty if _has_text(row, name)}
        if not empty:
            break
    return tuple(n for n in inputs if n not in empty) or tuple(inputs)


def _has_text(row: Row, name: str) -> bool:
    value: Any = row.values.get(name, name)
    return not isinstance(value, str) or bool(value.strip())


def _answer(path: Path, names: list[str]) -> str:
    if len(names) < 2:
        raise DataError(
            f"the only column is `{''.join(names)}`; a row needs a question and an answer",
            where=Location(path),
            fix=f"rename it to `{TEXT_NAMES[0]}` if it is free text to train on",
        )
    folded = {n.casefold(): n for n in names}
    for usual in ANSWER_NAMES:
        if usual in folded:
            return folded[usual]
    if len(names) == 2:
        first, second = _distinct_values(path, names)
        return names[0] if first < second else names[1]
    raise DataError(
        f"cannot tell which of the columns {', '.join(names)} is the answer",
        where=Location(path),
        fix="list them with the answer last: --columns question,context,reply",
    )


def _distinct_values(path: Path, names: list[str]) -> list[int]:
    """Return the number of distinct values of each column."""
    values: list[set[str]] = [set() for _ in names]
    for row in read_rows(path):
        for seen, name in zip(values, names, strict=True):
            seen.add(str(row.values.get(name)))
        if min(map(len, values)) > _MANY:
            break
    return [len(seen) for seen in values]
