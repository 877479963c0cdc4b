"""A row of a data file, and the options for reading one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from phi_runtime.config.file_formats import Format, SampleBy
from phi_runtime.core.errors import DataError, Location

FIX = "fix or remove this row"

Header = int | Literal["infer"] | None
"""Number of the header among the rows, from 0; "infer" is the first row unless there are `names`; None: no header."""


@dataclass(frozen=True)
class ReadOptions:
    """Options for reading a file, named as in Hugging Face's datasets. `resolve` detects those that are None.

    Attributes:
        format: Its format.
        sep: Separator of a CSV file.
        skipinitialspace: Skip spaces after the separator of a CSV file.
        sample_by: Unit of a text file.
        field: Key of a JSON object that holds the rows; None: the file is the array, or JSON Lines.
        encoding: Encoding of the text, by its name in Python.
        header: Row of a table that has the column names.
        names: Column names of a table, instead of those in its header.
        sheet: Sheet of a workbook; None: the first visible one.
        column_mapping: Names of columns in the file, each with its new name.
    """

    format: Format
    sep: str | None = None
    skipinitialspace: bool | None = None
    sample_by: SampleBy = "line"
    field: str | None = None
    encoding: str | None = None
    header: Header = "infer"
    names: tuple[str, ...] | None = None
    sheet: str | None = None
    column_mapping: tuple[tuple[str, str], ...] = ()


class Row(NamedTuple):
    """One row: values by column, and the line (from 1) on which it starts, or its number if the format has no lines."""

    values: dict[str, Any]
    line: int


class RowError(ValueError):
    """A row that cannot be trained on, and how to fix it. `empty`: it has no text, so it is skipped rather than bad."""

    def __init__(self, what: str, fix: str = FIX, *, empty: bool = False) -> None:
        super().__init__(what)
        self.fix, self.empty = fix, empty


@dataclass(frozen=True)
class BadRow:
    """A row that cannot be used: where it is, why, and how to fix it."""

    where: Location
    what: str
    fix: str = FIX

    @property
    def error(self) -> DataError:
        return DataError(self.what, where=self.where, fix=self.fix)
