"""Counts over rows while they are read: bad, empty and suspicious ones, and the distribution of answers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import lru_cache
from typing import Any

from phi_runtime.data.rows import BadRow
from phi_runtime.data.text_faults import encoding_faults, personal_data

SHOWN = 20  # places that are kept of each kind
LABELS = 200  # distinct answers that are still counted as labels
MIXTURES = 20  # distinct sets of columns that are counted separately

RowNote = list[Any]
"""[index of the data file, line, message, and for a bad row its column and the fix]"""


@dataclass
class Survey:
    """Counts over rows; `add` merges two.

    `labels` is None once there are too many distinct answers. `openings` and `crowded` are those of `store.Clusters`, counted
    when all rows are known.
    """

    read: int = 0
    broken: int = 0
    empty: int = 0
    filtered: int = 0
    endless: int = 0
    double_bos: int = 0
    double_end: int = 0
    openings: int = 0
    crowded: int = 0
    broken_at: list[RowNote] = field(default_factory=list)
    empty_at: list[RowNote] = field(default_factory=list)
    columns: Counter[str] = field(default_factory=Counter)
    labels: Counter[str] | None = field(default_factory=Counter)
    personal: Counter[str] = field(default_factory=Counter)
    personal_at: list[RowNote] = field(default_factory=list)
    encoding: Counter[str] = field(default_factory=Counter)
    encoding_at: list[RowNote] = field(default_factory=list)
    ends: Counter[str] = field(default_factory=Counter)
    ends_at: list[RowNote] = field(default_factory=list)
    special: Counter[str] = field(default_factory=Counter)
    special_at: list[RowNote] = field(default_factory=list)
    foreign: Counter[str] = field(default_factory=Counter)
    foreign_at: list[RowNote] = field(default_factory=list)
    untrained: Counter[str] = field(default_factory=Counter)
    untrained_at: list[RowNote] = field(default_factory=list)

    def count_bad_row(self, file: int, broken: BadRow) -> None:
        self.broken += 1
        if len(self.broken_at) < SHOWN:
            what, fix = _writable(broken.what), _writable(broken.fix)
            self.broken_at.append([file, broken.where.line, what, broken.where.column, fix])

    def count_empty_row(self, file: int, line: int, what: str) -> None:
        self.empty += 1
        if len(self.empty_at) < SHOWN:
            self.empty_at.append([file, line, what])

    def count_columns(self, values: Mapping[str, Any]) -> None:
        names = _names(tuple(values))
        if names in self.columns or len(self.columns) < MIXTURES:
            self.columns[names] += 1

    def count_row(self, file: int, line: int, question: str, answer: str) -> None:
        """Count a good row."""
        if self.labels is not None:
            self.labels[answer] += 1
            if len(self.labels) > LABELS:
                self.labels = None
        text = f"{question}\n{answer}"
        _count(self.personal, self.personal_at, file, line, personal_data(text))
        _count(self.encoding, self.encoding_at, file, line, encoding_faults(text))

    def count_tokens(
        self, file: int, line: int, ends: Sequence[str], special: Sequence[str], foreign: Sequence[str]
    ) -> None:
        """Count a row by the special tokens that it writes.

        Args:
            ends: End tokens of the model at the end of its answers.
            special: Other special tokens of the model in its text.
            foreign: Special tokens of other models, which are text for this one.
        """
        _count(self.ends, self.ends_at, file, line, sorted(set(ends)))
        _count(self.special, self.special_at, file, line, special)
        _count(self.foreign, self.foreign_at, file, line, foreign)

    def count_untrained(self, file: int, line: int, kinds: Sequence[str]) -> None:
        """Count a row by the kinds of content that it has and that are not trained."""
        _count(self.untrained, self.untrained_at, file, line, kinds)

    def add(self, other: Survey) -> None:
        """Add the counts of another part of the rows."""
        labels = self.labels + other.labels if self.labels is not None and other.labels is not None else None
        for name in (each.name for each in fields(self) if each.name != "labels"):
            mine, theirs = getattr(self, name), getattr(other, name)
            if isinstance(mine, Counter):
                mine.update(theirs)
            else:
                setattr(self, name, mine + theirs if isinstance(mine, int) else (mine + theirs)[:SHOWN])
        self.labels = labels if labels is not None and len(labels) <= LABELS else None


def _count(
    counts: Counter[str], places: list[RowNote], file: int, line: int, matches: Mapping[str, int] | Sequence[str]
) -> None:
    """Count the matches of one row by their kind, and keep its place."""
    if matches:
        counts.update(matches)
        if len(places) < SHOWN:
            places.append([file, line, ", ".join(matches)])


@lru_cache(MIXTURES)
def _names(columns: tuple[str, ...]) -> str:
    return _writable(", ".join(sorted(columns)))


def _writable(text: str) -> str:
    """Replace lone surrogates, which JSON can express but UTF-8 files cannot."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()
