"""Remarks on the labels of a data set, and on questions that have several answers. No numpy: `new` imports this."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping

FEWEST_ROWS = 20  # of validation or test
_SPACES_AND_QUOTES = re.compile(r"[\s\"'`“”„‟‘’‚«»]+")
_LONGEST = 40  # characters of a label in a message
_QUESTIONS = 200_000  # distinct questions that `QuestionCounter` compares, in about 50 MB
_NAMED = 5  # labels that one remark names


def shortened(label: str, longest: int = _LONGEST) -> str:
    """Return a label as one line of at most `longest` characters."""
    line = " ".join(label.split())
    return line if len(line) <= longest else f"{line[: longest - 1]}…"


def label_remarks(labels: Mapping[str, int]) -> list[str]:
    """Return remarks on labels, given with their numbers of rows."""
    remarks = []
    if len(labels) == 1:
        remarks.append(f"all rows have the label {_names(labels)}: the model learns nothing from the questions")
    same: defaultdict[str, list[str]] = defaultdict(list)
    for label in labels:
        same[_SPACES_AND_QUOTES.sub("", label.casefold())].append(label)
    remarks += [
        f"the labels {_names(group)} differ in case, spaces or quotes only: write them alike"
        for group in same.values()
        if len(group) > 1
    ]
    rare = [label for label, rows in labels.items() if rows == 1]
    if rare and len(labels) > 1:
        remarks.append(f"{_count(rare, 'label has', 'labels have')} a single row: {_names(rare)}")
    return remarks


def side_remarks(
    labels: Iterable[str], training: Mapping[str, int], side: Mapping[str, int], name: str = "validation"
) -> list[str]:
    """Return remarks on labels that training rows lack, or that several have and a side of the split lacks.

    Args:
        training, side: Rows of each label.
        name: Name of the side.
    """
    remarks = []
    untrained = [label for label in labels if side.get(label) and not training.get(label)]
    unmeasured = [label for label in labels if training.get(label, 0) > 1 and not side.get(label)]
    if untrained:
        remarks.append(f"only {name} rows have {_of(untrained)}: the model cannot learn it")
    if unmeasured:
        remarks.append(f"no {name} row has {_of(unmeasured)}: it is trained, and not measured")
    return remarks


def contradiction_remark(contradictory: int, questions: int, first: str, second: str) -> str:
    """Return the remark on questions that have several labels, with the places of two rows of one."""
    return f"questions with several labels: {contradictory} of {questions}, such as those at {first} and {second}"


def few_rows(rows: int, name: str = "validation") -> list[str]:
    """Return the remark on a side of the split with few rows; there is none without rows, or with enough of them."""
    if not 0 < rows < FEWEST_ROWS:
        return []
    return [f"{rows} {name} {'row' if rows == 1 else 'rows'}: a score of fewer than {FEWEST_ROWS} is mostly chance"]


class QuestionCounter:
    """Counts, while rows are read, those that repeat a question.

    Attributes:
        duplicates: Rows that repeat question and answer of an earlier one.
        ends: Rows by the end token that they write at the end of an answer.
        example: Places of two rows of the first question that has several answers.
    """

    def __init__(self) -> None:
        self.duplicates = 0
        self.ends: Counter[str] = Counter()
        self.example: tuple[str, str] | None = None
        self._first: dict[int, tuple[int, str]] = {}  # by hash of the question: that of its first answer, and its place
        self._several: set[int] = set()

    def __len__(self) -> int:
        return len(self._first)

    def add(self, place: str, question: str, answer: str, ends: Iterable[str] = ()) -> None:
        if ends:
            self.ends.update(set(ends))
        key, value = hash(question), hash(answer)
        if key not in self._first:
            if len(self._first) < _QUESTIONS:
                self._first[key] = value, place
            return
        earlier, first = self._first[key]
        self.duplicates += earlier == value
        if earlier != value and key not in self._several:
            self._several.add(key)
            self.example = self.example or (first, place)

    def remarks(self, rows: int, labels: Mapping[str, int]) -> tuple[str, ...]:
        """Return remarks on repeated questions among so many `rows`, and on `labels`; there are none if answers are texts."""
        remarks = label_remarks(labels)
        if self.duplicates:
            remarks.insert(0, f"{self.duplicates} of {rows} rows repeat an earlier one")
        remarks += [
            f"{count} of {rows} answers end with `{end}`, which is the end only if it is an end token of the model"
            for end, count in self.ends.most_common()
        ]
        if labels and self.example:
            remarks.insert(0, contradiction_remark(self.contradictory, len(self), *self.example))
        return tuple(remarks)

    @property
    def contradictory(self) -> int:
        """Number of questions that have several answers."""
        return len(self._several)


def _names(labels: Iterable[str]) -> str:
    names = [f"`{shortened(label)}`" for label in labels]
    more = [f"{len(names) - _NAMED} more"] if len(names) > _NAMED + 1 else []
    names = [*names[:_NAMED], *more] if more else names
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _count(labels: list[str], one: str, many: str) -> str:
    return f"1 {one}" if len(labels) == 1 else f"{len(labels)} {many}"


def _of(labels: list[str]) -> str:
    return f"the label{'s' if len(labels) > 1 else ''} {_names(labels)}"
