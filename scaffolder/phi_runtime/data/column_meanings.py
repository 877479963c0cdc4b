"""The meanings of columns: one table by name, and patterns of values that identify a row or describe it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

MEANINGS: dict[str, tuple[str, ...]] = {
    "conversation": ("messages", "conversations", "conversation", "dialogue", "dialog"),
    "text": ("text", "content", "document", "body"),
    "answer": (
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
        "translation",
        "highlights",
        "category",
        "class",
    ),
    "question": ("system", "system_prompt", "instruction", "prompt", "question", "query", "input", "context"),
    "options": ("choices", "options", "candidates"),  # of a question
    "answers": ("answers", "labels", "targets", "responses", "completions", "entities"),  # often lists
    "chosen": ("chosen",),
    "rejected": ("rejected",),
    "mark": ("label", "kto_tag"),  # of TRL and LLaMA-Factory: false next to an answer that is a bad one
    "media": ("image", "images", "audio", "audios", "video", "videos"),
    "score": ("score", "rating", "stars", "reward", "confidence", "votes", "upvotes", "likes"),
    "count": ("count", "length", "size", "tokens", "words"),
    "id": ("id", "ip_address", "uuid", "guid", "index", "idx", "row", "key", "no", "nr", "level_0"),
    "time": ("timestamp", "date", "time", "datetime", "created", "updated", "modified", "submitted", "edited"),
    "person": ("by", "annotator", "author", "editor", "email", "username", "worker"),
    "origin": (
        "category",
        "topic",
        "type",
        "difficulty",
        "tags",
        "source",
        "split",
        "dataset",
        "subset",
        "license",
        "model",
        "version",
    ),
}
"""Names of columns by their meaning. The names of an answer are in the order in which they are preferred."""

INSTRUCTION = ("system", "instruction", "input", "context")
"""Columns of a question in Alpaca's format and its relatives, in the order of the prompt."""

HISTORY = "history"
"""Column with earlier questions and answers of the same conversation, next to an instruction."""

DESCRIBES, SCORE, NOT_TEXT = "describes the row", "a score", "not text"  # reasons why a column is not used
MANY = 1000  # distinct values that are too many for labels, whatever the number of rows
_UNNAMED = re.compile(r"(unnamed_\d+)?(level_\d+)?")
_TEXT_SUFFIXES = ("text", "name", "value", "string")
_SHORT = 60  # characters of a constant; a longer one may be the text that questions are about
_LONGEST = 2000  # characters of a value that may have a form
_DIGITS = 19
_ALL_CHECKED, _SAMPLED = 10_000, 100  # the forms of the first values are checked, and of one in a hundred after them
_FEW_ROWS = 5  # too few to see a pattern in numbers

_DATE = (
    r"(\d{4}[-/.]\d{1,2}[-/.]\d{1,2}|\d{1,2}[-/.]\d{1,2}[-/.]\d{2,4}"
    r"|([^\W\d]{2,9}, )?(\d{1,2}\.? [^\W\d]{3,9}\.?|[^\W\d]{3,9}\.? \d{1,2},?) \d{4},?)"
)
_TIME = r"\d{1,2}:\d{2}(:\d{2}([.,]\d+)?)?( ?[AaPp]\.?[Mm]\.?)?"
PATTERNS: dict[str, re.Pattern[str]] = {
    "number": re.compile(r"-?\d+([.,]\d+)?"),
    "token": re.compile(r"\S{1,64}"),
    "uuid": re.compile(r"[0-9a-f]{8}-?([0-9a-f]{4}-?){3}[0-9a-f]{12}|[0-9a-f]{16,64}", re.IGNORECASE),
    "url": re.compile(r"https?://\S+"),
    "email": re.compile(r"[^\s@]+@[^\s@]+\.[^\s@]+"),
    "date": re.compile(rf"{_DATE}([T ]+{_TIME})?( ?(Z|UTC|GMT|[+-]\d{{1,2}}:?\d{{0,2}}))*|\d{{10}}|\d{{13}}"),
    "moment": re.compile(rf"{_DATE}[T ]+{_TIME}( ?(Z|UTC|GMT|[+-]\d{{1,2}}:?\d{{0,2}}))*"),
    "name": re.compile(r"\S+( \S+){0,2}"),
}
"""Forms of a value. A column has a form if all of its values have it."""


def key_of(name: str) -> str:
    """Return the name of a column in lower case, with its words joined by `_`."""
    return re.sub(r"\W+", "_", name.casefold()).strip("_")


def means(name: str, *meanings: str) -> bool:
    """Return True if the name of a column is in the table with one of `meanings`."""
    return any(key_of(name) in MEANINGS[meaning] for meaning in meanings)


def named(names: Iterable[str], *meanings: str) -> list[str]:
    """Return the names with one of `meanings`, those that come first in the table first."""
    known = [name for meaning in meanings for name in MEANINGS[meaning]]
    return sorted((name for name in names if key_of(name) in known), key=lambda name: known.index(key_of(name)))


def named_answers(names: Iterable[str]) -> list[str]:
    """Return the names of an answer, the preferred first: `answer`, then such as `gold_answer` and `target_text`."""
    names = list(names)
    return named(names, "answer") or [name for name in names if _ends_as_answer(key_of(name).split("_"))]


def _ends_as_answer(words: list[str]) -> bool:
    if len(words) > 1 and words[-1] in _TEXT_SUFFIXES:
        words = words[:-1]
    return words[-1] in MEANINGS["answer"]


def _has_word(name: str, meaning: str) -> bool:
    return bool({*key_of(name).split("_")} & {*MEANINGS[meaning]})


@dataclass
class Profile:
    """Common properties of the values of a column.

    Attributes:
        rows: Number of rows of the data.
        filled: Number of rows with a value that is not empty.
        texts: Number of those that are text or numbers.
        distinct: Distinct values, at most MANY + 1 of them.
        forms: Names of the patterns that the values match, of which the later ones are sampled.
        rising: True if each value is the number after that of the previous row.
    """

    rows: int = 0
    filled: int = 0
    texts: int = 0
    distinct: set[str] = field(default_factory=set)
    forms: set[str] = field(default_factory=lambda: {*PATTERNS})
    rising: bool = True
    previous: int | None = None

    def add(self, value: Any) -> None:
        text = value.strip() if isinstance(value, str) else "" if value is None else str(value)
        if not text:
            return
        self.filled += 1
        self.texts += isinstance(value, str | int | float)
        if self.rising:
            number = int(text) if text.isdecimal() and len(text) < _DIGITS else None
            self.rising = number is not None and self.previous in (None, number - 1)
            self.previous = number
        if text in self.distinct:
            return
        if len(self.distinct) <= MANY:
            self.distinct.add(text)
        if self.forms and (self.filled <= _ALL_CHECKED or not self.filled % _SAMPLED):
            self.forms = {f for f in self.forms if len(text) <= _LONGEST and PATTERNS[f].fullmatch(text)}

    @property
    def unique(self) -> bool:
        """True if no value is in two rows, of the rows that were compared."""
        return len(self.distinct) >= min(self.filled, MANY)

    @property
    def few(self) -> bool:
        """True if the values repeat as labels do: at most 50, each in five rows on average."""
        return 0 < len(self.distinct) <= min(50, self.filled // 5)


def reason_to_omit(name: str, profile: Profile, names: Sequence[str]) -> str:
    """Return the reason why a column is not in the prompt by default; "" if it may carry a part of the question."""
    return next((reason for reason, applies in _REASONS if applies(name, profile, names)), "")


def _is_constant(name: str, profile: Profile, _names: Sequence[str]) -> bool:
    short = len(profile.distinct) == 1 and len(next(iter(profile.distinct))) <= _SHORT
    return short and profile.filled == profile.rows > 1 and not means(name, "question", "answer")


def _is_id(name: str, profile: Profile, _names: Sequence[str]) -> bool:
    words = key_of(name).split("_")
    by_name = "token" in profile.forms and (means(name, "id") or words[-1] in ("id", "uuid", "guid"))
    return by_name or ("uuid" in profile.forms and profile.unique and profile.filled > 1)


def _is_row_number(name: str, profile: Profile, _names: Sequence[str]) -> bool:
    unnamed = bool(_UNNAMED.fullmatch(key_of(name))) and "number" in profile.forms
    return unnamed or (profile.rising and profile.filled >= _FEW_ROWS)


def _is_time(name: str, profile: Profile, _names: Sequence[str]) -> bool:
    return "moment" in profile.forms or ("date" in profile.forms and _has_word(name, "time"))


def _is_origin(name: str, _profile: Profile, names: Sequence[str]) -> bool:
    return means(name, "origin") and any(means(other, "question") for other in names)


_REASONS: tuple[tuple[str, Callable[[str, Profile, Sequence[str]], bool]], ...] = (
    ("empty", lambda _name, profile, _names: not profile.filled),
    ("an id", _is_id),
    ("row numbers", _is_row_number),
    ("a person", lambda name, profile, _names: _has_word(name, "person") and bool({"name", "email"} & profile.forms)),
    ("a time", _is_time),
    ("the same in all rows", _is_constant),
    (NOT_TEXT, lambda _name, profile, _names: not profile.texts),
    ("an email address", lambda _name, profile, _names: "email" in profile.forms),
    (DESCRIBES, _is_origin),
    ("a count", lambda name, profile, _names: _has_word(name, "count") and "number" in profile.forms),
    (SCORE, lambda name, profile, _names: _has_word(name, "score") and "number" in profile.forms),
    ("a URL", lambda _name, profile, _names: "url" in profile.forms),
)
"""Reasons to omit a column, the strongest first: the columns of the weakest are used if there is no other."""

REASONS = tuple(reason for reason, _ in _REASONS)


def is_media(name: str, value: Any) -> bool:
    """Return True if a cell holds an image, audio or video, or the place of one."""
    return means(name, "media") and not (isinstance(value, str) and " " in value.strip())


def marked_false(values: Mapping[str, Any], columns: Sequence[str], *, conversation: bool) -> str | None:
    """Return the column by which a row's answer is a bad one (KTO); None if the row is a good one.

    Args:
        values: The row.
        columns: Columns of the template.
        conversation: True if the template renders a conversation.
    """
    for name in MEANINGS["mark"]:
        if name not in values or name in columns:
            continue
        if (conversation or name != "label" or columns[-1] == "completion") and _truth(values[name]) is False:
            return name
    return None


def marks(values: Mapping[str, Any]) -> list[str]:
    """Return the columns that may mark an answer as good or bad."""
    return [name for name in MEANINGS["mark"] if name in values and _truth(values[name]) is not None]


def _truth(value: Any) -> bool | None:
    if isinstance(value, bool):
        return value
    return {"true": True, "false": False}.get(value.strip().casefold()) if isinstance(value, str) else None
