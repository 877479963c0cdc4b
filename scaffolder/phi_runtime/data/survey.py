"""What is seen of the rows while they are read, counted: what is broken, empty, suspicious, and how the answers are spread."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from phi_runtime.data.rows import Broken
from phi_runtime.data.text_faults import encoding_faults, personal_data

SHOWN = 20  # places that are kept of one kind of fault
LABELS = 200  # different answers up to which they are counted as labels
MIXTURES = 20  # different sets of columns that are told apart

Place = list[Any]
"""[which of the data files, line, what is said of it, for a broken row its column and the fix]"""


@dataclass
class Survey:
    """Counts over rows, that add up. `labels` is None once there are too many different answers to be labels."""

    read: int = 0
    kept: int = 0
    broken: int = 0
    empty: int = 0
    filtered: int = 0
    endless: int = 0
    double_bos: int = 0
    double_end: int = 0
    broken_at: list[Place] = field(default_factory=list)
    empty_at: list[Place] = field(default_factory=list)
    columns: Counter[str] = field(default_factory=Counter)
    labels: Counter[str] | None = field(default_factory=Counter)
    personal: Counter[str] = field(default_factory=Counter)
    personal_at: list[Place] = field(default_factory=list)
    encoding: Counter[str] = field(default_factory=Counter)
    encoding_at: list[Place] = field(default_factory=list)

    def saw_broken(self, file: int, broken: Broken) -> None:
        self.broken += 1
        if len(self.broken_at) < SHOWN:
            what, fix = _writable(broken.what), _writable(broken.fix)
            self.broken_at.append([file, broken.where.line, what, broken.where.column, fix])

    def saw_empty(self, file: int, line: int, what: str) -> None:
        self.empty += 1
        if len(self.empty_at) < SHOWN:
            self.empty_at.append([file, line, what])

    def saw_columns(self, values: Mapping[str, Any]) -> None:
        names = _writable(", ".join(sorted(values)))
        if names in self.columns or len(self.columns) < MIXTURES:
            self.columns[names] += 1

    def saw(self, file: int, line: int, question: str, answer: str) -> None:
        """A row that is good: its question and its answer."""
        self.kept += 1
        if self.labels is not None:
            self.labels[answer] += 1
            if len(self.labels) > LABELS:
                self.labels = None
        text = f"{question}\n{answer}"
        for counts, places, found in (
            (self.personal, self.personal_at, personal_data(text)),
            (self.encoding, self.encoding_at, encoding_faults(text)),
        ):
            if found:
                counts.update(found)
                if len(places) < SHOWN:
                    places.append([file, line, ", ".join(found)])

    def add(self, other: Survey) -> None:
        """Adds what another part of the rows held."""
        for name in ("read", "kept", "broken", "empty", "filtered", "endless", "double_bos", "double_end"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for name in ("broken_at", "empty_at", "personal_at", "encoding_at"):
            setattr(self, name, (getattr(self, name) + getattr(other, name))[:SHOWN])
        for name in ("columns", "personal", "encoding"):
            getattr(self, name).update(getattr(other, name))
        if self.labels is not None and other.labels is not None:
            self.labels += other.labels
            if len(self.labels) > LABELS:
                self.labels = None
        else:
            self.labels = None

    def as_dict(self) -> dict[str, Any]:
        return dict(vars(self))

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Survey:
        counters = {name: Counter(raw[name]) for name in ("columns", "personal", "encoding")}
        labels = None if raw["labels"] is None else Counter(raw["labels"])
        return cls(**{**raw, **counters, "labels": labels})


def _writable(text: str) -> str:
    """A text without halves of surrogate pairs, which JSON can name and no file can hold."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()
