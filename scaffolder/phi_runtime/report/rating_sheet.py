"""Sheets for people who rate the answers of two models, without the models' names; rating.py evaluates them."""

from __future__ import annotations

import csv
import io
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from phi_runtime.core.artifacts import digest
from phi_runtime.core.errors import DataError, Location
from phi_runtime.evaluation.row_results import RowResult
from phi_runtime.report.text import inert

ROWS = 60
SCALE = range(1, 6)  # of a rating: 1 bad, 5 good
_COLUMNS = (
    "sheet",
    "number",
    "place",
    "prompt",
    "expected",
    "answer A",
    "answer B",
    "rating A",
    "rating B",
    "better",
    "comment",
)
_JUDGE_COLUMNS = ("judge", "as shown", "swapped")
_FORMULA = ("=", "+", "-", "@", "＝", "＋", "－", "＠")  # what a spreadsheet takes for the start of a formula
_WORDS = {"a": "A", "b": "B", "tie": "tie", "same": "tie", "=": "tie"}

_SECOND_AS_B = {"A": -1, "B": 1, "tie": 0}

Side = Literal["A", "B"]


@dataclass(frozen=True)
class SheetRow:
    """A row of a sheet.

    Attributes:
        place: File and line.
        first: The column with the answer of the first model.
        weight: Rows of the comparison that it represents.
    """

    place: str
    prompt: str
    expected: str
    answers: tuple[str, str]
    first: Side
    weight: float


@dataclass(frozen=True)
class Judgment:
    """The position that a judge prefers, "A", "B" or "tie", in both orders; None where its reply names none.

    Attributes:
        first_as_a: With the answer of the first model as A.
        first_as_b: With the answer of the first model as B.
    """

    first_as_a: str | None
    first_as_b: str | None

    @property
    def preference(self) -> int | None:
        """1 for the second model, -1 for the first; 0 for a tie, which is also where the orders contradict each other."""
        if self.first_as_a is None or self.first_as_b is None:
            return None
        return _SECOND_AS_B[self.first_as_a] if self.is_consistent else 0

    @property
    def is_consistent(self) -> bool:
        """True if both orders prefer the same answer."""
        if self.first_as_a is None or self.first_as_b is None:
            return False
        return _SECOND_AS_B[self.first_as_a] == -_SECOND_AS_B[self.first_as_b]

    def in_order_of(self, row: SheetRow) -> tuple[str | None, str | None]:
        """Return the positions in the order of the row, and in the other."""
        return (self.first_as_a, self.first_as_b) if row.first == "A" else (self.first_as_b, self.first_as_a)


@dataclass(frozen=True)
class Sheet:
    """The rows to rate, and the key to whose answers are whose, which the raters do not get.

    Attributes:
        models: Names of the first and the second model.
        differing: Rows of the comparison whose answers differ, of `total`.
    """

    models: tuple[str, str]
    rows: tuple[SheetRow, ...]
    differing: int
    total: int

    @property
    def id(self) -> str:
        return digest(asdict(self))[:12]

    @property
    def differing_in_sheet(self) -> int:
        """Rows of the sheet whose answers differ."""
        return sum(row.answers[0] != row.answers[1] for row in self.rows)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Sheet:
        rows = (SheetRow(**{**row, "answers": tuple(row["answers"])}) for row in raw["rows"])
        return cls(tuple(raw["models"]), tuple(rows), raw["differing"], raw["total"])


def draw_sheet(rows: Sequence[RowResult], models: tuple[str, str], count: int = ROWS, seed: int = 0) -> Sheet:
    """Draw rows for a sheet: first those in which the answers of the models differ, then others, at random.

    Args:
        rows: Of a comparison.
        models: Names of the models; the second is the one to judge.
        count: Rows of the sheet, at most.
        seed: Of the draw and of the order of the answers.

    Raises:
        DataError: A model has no answers.
    """
    answered = [row for row in rows if all(m in row.models and row.models[m].answer is not None for m in models)]
    if not answered:
        names = " and ".join(f"`{model}`" for model in models)
        raise DataError(
            f"the comparison has no answers of {names}", fix="name two models of the comparison that answer"
        )
    generator = random.Random(seed)
    strata = {
        differs: [row for row in answered if (len({_answer(row, m) for m in models}) == 2) == differs]
        for differs in (True, False)
    }
    drawn: list[SheetRow] = []
    for stratum in strata.values():
        sample = generator.sample(stratum, min(len(stratum), count - len(drawn)))
        drawn += [_sheet_row(row, models, generator, len(stratum) / len(sample)) for row in sample]
    generator.shuffle(drawn)
    return Sheet(models, tuple(drawn), len(strata[True]), len(answered))


def is_drawn_from(sheet: Sheet, rows: Sequence[RowResult]) -> bool:
    """Return True if the answers of a sheet are those of a comparison, which may be measured again since."""
    by_place = {_place(row): row for row in rows}
    return all(
        (row := by_place.get(rated.place)) is not None
        and set(sheet.models) <= row.models.keys()
        and tuple(_answer(row, model) for model in sheet.models) == rated.answers
        for rated in sheet.rows
    )


def _place(row: RowResult) -> str:
    return f"{row.file}:{row.line}"


def _answer(row: RowResult, model: str) -> str:
    return (row.models[model].answer or "").strip()


def _sheet_row(row: RowResult, models: tuple[str, str], generator: random.Random, weight: float) -> SheetRow:
    first, second = (_answer(row, model) for model in models)
    return SheetRow(
        _place(row), row.prompt or "", row.reference or "", (first, second), generator.choice(("A", "B")), weight
    )


def as_csv(sheet: Sheet, judge: str = "", judgments: Mapping[int, Judgment] = MappingProxyType({})) -> str:
    """Return the sheet without the names of its models; no cell is a formula.

    Args:
        judge: Name of the model that has filled it in.
        judgments: By the index of the row.
    """
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow((*_COLUMNS, *(_JUDGE_COLUMNS if judge else ())))
    for index, row in enumerate(sheet.rows):
        answers = row.answers if row.first == "A" else row.answers[::-1]
        cells = map(safe_cell, (row.place, row.prompt, row.expected, *answers))
        judgment = judgments.get(index)
        empty = ("", "", _better(row, judgment.preference) if judgment else "", "")
        replies = (reply or "no answer" for reply in judgment.in_order_of(row)) if judgment else ()
        judged = (safe_cell(judge), *replies) if judgment else ()
        writer.writerow((f"sheet {sheet.id}", index + 1, *cells, *empty, *judged))
    return out.getvalue()


def _better(row: SheetRow, preference: int | None) -> str:
    if not preference:
        return "" if preference is None else "tie"
    return row.first if preference < 0 else "B" if row.first == "A" else "A"


def safe_cell(cell: str) -> str:
    """Return a cell that a spreadsheet shows as text (OWASP, CSV injection)."""
    cell = inert(cell)
    return f"'{cell}" if cell.startswith("\t") or cell.lstrip().startswith(_FORMULA) else cell


# -- filled in ----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rating:
    """One row as somebody has rated it.

    Attributes:
        first, second: Ratings from 1 to 5 of the answers; None where there is none.
        preference: 1 for the second model, -1 for the first, 0 for a tie; None where nothing is said.
    """

    first: int | None = None
    second: int | None = None
    preference: int | None = None


def sheet_id(path: Path) -> str:
    """Return the id of the sheet in a file. Raises DataError."""
    ids = {row.get("sheet", "").removeprefix("sheet ").strip() for row in _read(path)} - {""}
    if len(ids) != 1:
        raise DataError("the file is not one sheet of ratings", where=Location(path), fix="keep the column `sheet`")
    return ids.pop()


def read_ratings(path: Path, sheet: Sheet) -> dict[int, Rating]:
    """Return the ratings in a file, by the index of the row; rows without any are skipped.

    Without a word in `better`, the higher rating is preferred.

    Raises:
        DataError: A cell is not a rating.
    """
    ratings: dict[int, Rating] = {}
    for index, row in enumerate(_read(path), 1):
        where = f"row {row.get('number') or index}"
        if (number := _integer(path, where, "number", row.get("number", ""), range(1, len(sheet.rows) + 1))) is None:
            continue
        cells = {
            side: _integer(path, where, f"rating {side}", row.get(f"rating {side.lower()}", ""), SCALE) for side in "AB"
        }
        word = row.get("better", "").strip().lower().removeprefix("'")
        if word and word not in _WORDS:
            raise DataError(f"`better` of {where} is `{word}`", where=Location(path), fix="write A, B or tie")
        if number - 1 in ratings:
            raise DataError(f"row {number} is there twice", where=Location(path), fix="keep one of the two rows")
        first = sheet.rows[number - 1].first
        one, other = cells[first], cells["B" if first == "A" else "A"]
        preference: int | None
        if word:
            preference = 0 if _WORDS[word] == "tie" else -1 if _WORDS[word] == first else 1
        else:
            preference = None if one is None or other is None else (other > one) - (other < one)
        if (one, other, preference) != (None, None, None):
            ratings[number - 1] = Rating(one, other, preference)
    return ratings


def judge_of(path: Path) -> str:
    """Return the name of the judge that has filled in a sheet; empty if people have."""
    return next((name for row in _read(path) if (name := row.get("judge", "").strip())), "")


def read_judgments(path: Path, sheet: Sheet) -> dict[int, Judgment]:
    """Return what a judge has said in both orders, by the index of the row; rows that it did not get to are absent.

    Raises:
        DataError: A number is not that of a row.
    """
    judgments = {}
    for row in _read(path):
        number = _integer(
            path, f"row {row.get('number')}", "number", row.get("number", ""), range(1, len(sheet.rows) + 1)
        )
        cells = [row.get(name, "").strip() for name in _JUDGE_COLUMNS[1:]]
        if number is not None and any(cells):
            replies = [cell if cell in _SECOND_AS_B else None for cell in cells]
            first_as_a, first_as_b = replies if sheet.rows[number - 1].first == "A" else replies[::-1]
            judgments[number - 1] = Judgment(first_as_a, first_as_b)
    return judgments


def _integer(path: Path, where: str, column: str, cell: str, allowed: range) -> int | None:
    text = cell.strip().removesuffix(".0")
    if not text:
        return None
    if not text.isdecimal() or int(text) not in allowed:
        values = f"{allowed[0]} to {allowed[-1]}"
        raise DataError(f"`{column}` of {where} is `{text}`", where=Location(path), fix=f"write a number from {values}")
    return int(text)


def _read(path: Path) -> list[dict[str, str]]:
    """Return the rows of a sheet as a spreadsheet has saved it: in its encoding, with its separator."""
    content = path.read_bytes()
    encoding = "utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError:
        text = content.decode("cp1252", errors="replace")
    header = text.partition("\n")[0]
    separator = max(",;\t", key=header.count)
    rows = csv.DictReader(io.StringIO(text, newline=""), delimiter=separator)
    return [
        {(key or "").strip().lower(): value or "" for key, value in row.items() if isinstance(value, str)}
        for row in rows
    ]
