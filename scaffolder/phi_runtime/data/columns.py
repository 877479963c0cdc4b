"""Detect the content of a data file: conversations, questions and answers in columns, or free text, and their lengths."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from phi_runtime.config.file_formats import format_of
from phi_runtime.core.errors import DataError, Location
from phi_runtime.data.chat import SYSTEM, columns_of_messages, conversation_of, holds_messages, text_of
from phi_runtime.data.column_aliases import aliases_of
from phi_runtime.data.column_meanings import (
    DESCRIBES,
    HISTORY,
    INSTRUCTION,
    MANY,
    NOT_TEXT,
    REASONS,
    SCORE,
    Profile,
    is_media,
    key_of,
    marked_false,
    marks,
    means,
    named,
    named_answers,
    reason_to_omit,
)
from phi_runtime.data.end_tokens import ENDS, split_ends
from phi_runtime.data.files import no_rows
from phi_runtime.data.labels import QuestionCounter
from phi_runtime.data.longest import Longest, size_of
from phi_runtime.data.messages import TOOLS, Message
from phi_runtime.data.other_purposes import columns_flag, refuse_lists, refuse_other_purposes
from phi_runtime.data.row import RowError
from phi_runtime.data.rows import ReadOptions, Row, read_rows
from phi_runtime.data.template import PromptTemplate, is_empty
from phi_runtime.data.template import text_of as cell_text
from phi_runtime.data.transcripts import refuse_transcript

Kind = Literal["columns", "chat", "text"]


@dataclass(frozen=True)
class Columns:
    """The columns of a data file.

    Attributes:
        inputs: Columns of the question; for "text" none. For `kind` "chat" the column of the conversations, or those before
            `answer` if several follow one another.
        answer: Column of the answer.
        rows: Number of rows that are used.
        labels: The distinct answers if there are few; else empty.
        longest, longest_answer: Size of the longest row and answer, see `size_of`.
        optional: Inputs that are empty in some rows.
        filters: Values that a row must have, for `col_filters`.
        filtered: Number of rows that do not have them.
        unused: The other columns, each with the reason why it is not used.
        objects: True if all answers are JSON objects.
        longest_rows: The longest rows: values by column, or the texts of the messages of a conversation.
        longest_answers: The longest answers.
        questions: Number of distinct questions, as far as they are compared.
        remarks: Warnings about labels, and about rows that repeat a question.
    """

    inputs: tuple[str, ...]
    answer: str
    rows: int
    labels: tuple[str, ...]
    kind: Kind = "columns"
    longest: int = 0
    longest_answer: int = 0
    optional: tuple[str, ...] = ()
    filters: Mapping[str, Any] = field(default_factory=dict)
    filtered: int = 0
    unused: tuple[tuple[str, str], ...] = ()
    objects: bool = False
    longest_rows: tuple[Any, ...] = field(default=(), compare=False, repr=False)
    longest_answers: tuple[str, ...] = field(default=(), compare=False, repr=False)
    questions: int = 0
    remarks: tuple[str, ...] = ()


class UnknownAnswer(DataError):
    """No column can be recognized as the answer; the user has to name it."""


def first_row(path: Path, reading: ReadOptions | None = None) -> Row:
    """Return the first row of a file. Raises DataError as `read_rows` does, and if there is none."""
    for row in read_rows(path, reading):
        return row
    raise no_rows(path)


def find_columns(
    path: Path, chosen: Sequence[str] = (), more: Sequence[Path] = (), reading: ReadOptions | None = None
) -> Columns:
    """Read all rows and detect their columns.

    Args:
        path: The data file.
        chosen: Column names or their aliases, the answer last; or one, of conversations or of free text. Without them the
            answer is the column with a usual name for one, else the one of two columns that has fewer distinct values.
        more: Further files with the same columns.
        reading: How to read the files; None: by their suffix.

    Raises:
        DataError: a row cannot be used, no column can be recognized as the answer, or the data is not text with one answer
            a row: pairs of answers to compare, images.
    """
    files = _Files((path, *more), reading)
    first = first_row(path, reading)
    if chosen:
        return _chosen(files, first, chosen)
    refuse_other_purposes(path, first)
    names = list(first.values)
    if chats := columns_of_messages(first.values, named(names, "conversation")):
        return _conversations(files, chats)
    if names == ["text"]:
        refuse_transcript(files.paths[0], files.reading)
    profiles = _profiles(files)
    refuse_lists(path, profiles)
    marked = [name for name in marks(first.values) if name != "label" or "completion" in names]
    names = [name for name in profiles if name not in marked]
    reasons = {name: reason_to_omit(name, profiles[name], names) for name in names}
    answer = _readable(files, _answer(files, names, profiles, reasons), names, profiles)
    inputs = _inputs(files, answer, profiles, reasons)
    history = [name for name in names if key_of(name) == HISTORY and profiles[name].distinct - {"[]"}]
    if history and any(key_of(name) == "instruction" for name in inputs):
        return _conversations(files, (history[0], *(name for name in inputs if name != SYSTEM), answer))
    unused = tuple((name, reasons[name]) for name in names if name not in (*inputs, answer))
    return _measured(files, inputs, answer, unused)


@dataclass(frozen=True)
class _Files:
    paths: tuple[Path, ...]
    reading: ReadOptions | None

    def __iter__(self) -> Iterator[tuple[Path, Row]]:
        return ((path, row) for path in self.paths for row in read_rows(path, self.reading))

    def true_for(self, false: Any) -> Any:
        """Return the opposite of a cell that is false, as a filter compares it."""
        if isinstance(false, bool) or (self.reading.format if self.reading else format_of(self.paths[0])) == "csv":
            return True
        return {"false": "true", "FALSE": "TRUE"}.get(false, "True")


def _chosen(files: _Files, first: Row, chosen: Sequence[str]) -> Columns:
    names = list(first.values)
    if not {*chosen} <= {*names}:
        names = list(_profiles(files))
        originals = {alias: name for name, alias in aliases_of(names).items()}
        chosen = [originals.get(name, name) for name in chosen]
    for name in chosen:
        if name not in names:
            fix = f"the columns are {', '.join(names)}"
            raise DataError(f"there is no column `{name}`", where=Location(files.paths[0]), fix=fix)
    is_chat = any(holds_messages(first.values.get(name)) or key_of(name) == HISTORY for name in chosen[:-1])
    if is_chat or holds_messages(first.values.get(chosen[-1])) or isinstance(first.values.get(chosen[-1]), list):
        return _conversations(files, tuple(chosen))
    media = {name: NOT_TEXT for name, value in first.values.items() if is_media(name, value)}
    unused = tuple((name, media.get(name, "")) for name in names if name not in chosen)
    return _measured(files, tuple(chosen[:-1]), chosen[-1], unused)


def _profiles(files: _Files) -> dict[str, Profile]:
    """Read all rows, and return the profile of each column that any of them has."""
    profiles: dict[str, Profile] = {}
    rows = 0
    for _, row in files:
        rows += 1
        for name, value in row.values.items():
            if name not in profiles:
                profiles[name] = Profile()
            profiles[name].add(value)
    for profile in profiles.values():
        profile.rows = rows
    return profiles


def _answer(files: _Files, names: Sequence[str], profiles: Mapping[str, Profile], reasons: Mapping[str, str]) -> str:
    """Return the column of the answer; if no other is used, it is free text."""
    if answers := named_answers(name for name in names if reasons[name] in ("", DESCRIBES)):
        return answers[0]
    used = [name for name in names if not reasons[name]]
    if len(used) == 1:
        scores = [name for name in names if reasons[name] == SCORE and profiles[name].few]
        if len(scores) == 1 or means(used[0], "text"):
            return scores[0] if len(scores) == 1 else used[0]
    is_score = any(reasons[name] == SCORE and profiles[name].few for name in names)  # perhaps the answer
    if len(used) == 2 and not is_score:
        first, second = (len(profiles[name].distinct) for name in used)
        return used[0] if first < second else used[1]
    labels = [name for name in used if profiles[name].few]
    if len(labels) == 1 and not is_score and not any(means(name, "question") for name in used):
        return labels[0]
    where = Location(files.paths[0])
    if len(names) == 1:
        raise DataError(
            f"the only column is `{names[0]}`; a row needs a question and an answer",
            where=where,
            fix=f"add {columns_flag(names)} if it is free text to train on",
        )
    suggested = [name for name in names if reasons[name] in ("", SCORE)]
    raise UnknownAnswer(
        f"cannot tell which of the columns `{'`, `'.join(names)}` is the answer",
        where=where,
        fix=f"list those to use, the answer last, such as {columns_flag(suggested or names)}",
    )


def _readable(files: _Files, answer: str, names: Sequence[str], profiles: Mapping[str, Profile]) -> str:
    """Return the column that names the values of the answer, if these are numbers: `label_text` for `label`."""
    if "number" not in profiles[answer].forms:
        return answer
    word = key_of(answer).split("_")[0]
    others = [n for n in names if n != answer and word in key_of(n).split("_") and "number" not in profiles[n].forms]
    return next(iter(_same(files, others, answer)), answer) if others else answer


def _inputs(files: _Files, answer: str, profiles: Mapping[str, Profile], reasons: dict[str, str]) -> tuple[str, ...]:
    """Return the columns of the question; `reasons` then has a reason for each other column."""
    others = [name for name in reasons if name != answer]
    used = [name for name in others if not reasons[name]]
    if not used and means(answer, "text"):
        return ()
    if any(key_of(name) == "instruction" for name in used):
        order = [name for key in INSTRUCTION for name in used if key_of(name) == key]
        reasons |= {name: "not a part of an instruction" for name in used if name not in order}
        return tuple(order)
    if suspects := [n for n in used if len(profiles[n].distinct) == len(profiles[answer].distinct) and profiles[n].few]:
        same = _same(files, suspects, answer)
        reasons |= dict.fromkeys(same, f"the same as `{answer}`")
        used = [name for name in used if name not in same]
    if not used and others:  # the best of what is there
        weakest = max((reasons[name] for name in others), key=lambda reason: [*REASONS, reason].index(reason))
        used = [name for name in others if reasons[name] == weakest]
    return tuple(used)


def _same(files: _Files, names: Sequence[str], answer: str) -> set[str]:
    """Return the columns that have another value in exactly those rows in which the answer has another one."""
    same = {*names}
    answers: dict[tuple[str, str], str] = {}
    others: dict[tuple[str, str], str] = {}
    for _, row in files:
        value = cell_text(row.values.get(answer))
        for name in [*same]:
            other = cell_text(row.values.get(name))
            if answers.setdefault((name, other), value) != value or others.setdefault((name, value), other) != other:
                same.discard(name)
        if not same:
            break
    return same


def _measured(files: _Files, inputs: tuple[str, ...], answer: str, unused: tuple[tuple[str, str], ...]) -> Columns:
    """Read all rows, and return the columns with sizes, labels, and the inputs that are empty in some rows."""
    template = PromptTemplate("", "", inputs, answer, "", optional=inputs if len(inputs) > 1 else ())
    count = filtered = 0
    rows, texts = Longest(), Longest()
    answers: Counter[str] = Counter()
    questions = QuestionCounter()
    objects = True
    filled = dict.fromkeys(inputs, 0)
    filters: dict[str, Any] = {}
    for path, row in files:
        if mark := marked_false(row.values, template.columns, conversation=False):
            filters[mark], filtered = files.true_for(row.values[mark]), filtered + 1
            continue
        try:
            template.check(row.values)
        except RowError as e:
            raise DataError(str(e), where=Location(path, row.line), fix=e.fix) from None
        count += 1
        question = [cell_text(row.values[name]) for name in inputs if not is_empty(row.values.get(name))]
        for name in inputs:
            filled[name] += not is_empty(row.values.get(name))
        text = cell_text(row.values[answer])
        size = size_of(text)
        texts.add(size, text)
        rows.add(size + sum(map(size_of, question)), row.values)
        text = text.strip()
        objects = objects and _is_object(text)
        if inputs:
            text, ends = split_ends(text, ENDS)
            questions.add(f"{path.name}:{row.line}", "\n".join(question), text, ends)
        if len(answers) <= MANY:
            answers[text] += 1
    few = bool(inputs) and len(answers) < count and len(answers) <= max(2, min(50, count // 5))
    return Columns(
        inputs,
        answer,
        count,
        tuple(sorted(answers)) if few else (),
        "columns" if inputs else "text",
        rows.size,
        texts.size,
        tuple(name for name in inputs if filled[name] < count),
        filters,
        filtered,
        tuple((name, reason) for name, reason in unused if name not in filters),
        objects and count > 0,
        rows.items,
        texts.items,
        len(questions),
        questions.remarks(count, answers if few else {}),
    )


def _is_object(text: str) -> bool:
    try:
        return text[:1] == "{" and isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False


def _conversations(files: _Files, columns: tuple[str, ...]) -> Columns:
    count = filtered = 0
    rows, answers = Longest(), Longest()
    questions = QuestionCounter()
    others: dict[str, str] = {}
    filters: dict[str, Any] = {}
    for path, row in files:
        for name, value in row.values.items():
            if name not in others:
                others[name] = NOT_TEXT if is_media(name, value) else ""
        if mark := marked_false(row.values, columns, conversation=True):
            filters[mark], filtered = files.true_for(row.values[mark]), filtered + 1
            continue
        try:
            chat = conversation_of(row.values, columns)
        except RowError as e:
            raise DataError(str(e), where=Location(path, row.line), fix=e.fix) from None
        count += 1
        texts = [_text_of_message(message) for message in chat.messages]
        questions.add(f"{path.name}:{row.line}", json.dumps(texts[:-1]), *split_ends(texts[-1].strip(), ENDS))
        answers.add(size_of(texts[-1]), texts[-1])
        texts += [json.dumps(chat.tools, ensure_ascii=False)] if chat.tools else []
        rows.add(sum(map(size_of, texts)), texts)
    used = (*columns, SYSTEM, TOOLS, *filters)
    unused = tuple((name, reason) for name, reason in others.items() if name not in used)
    return Columns(
        columns[:-1] or columns,
        columns[-1],
        count,
        (),
        "chat",
        rows.size,
        answers.size,
        filters=filters,
        filtered=filtered,
        unused=unused,
        longest_rows=rows.items,
        longest_answers=answers.items,
        questions=len(questions),
        remarks=questions.remarks(count, {}),
    )


def _text_of_message(message: Message) -> str:
    """Return a message without the text of a template."""
    calls = message.get("tool_calls")
    written = json.dumps(calls, ensure_ascii=False) if calls else ""
    return text_of(message) + message.get("reasoning_content", "") + written
