"""Read the records of a sheet of an Excel workbook (.xlsx)."""

from __future__ import annotations

import datetime
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from phi_runtime.core.errors import DataError, Location
from phi_runtime.data.files import missing_file, refuse_binary, require_file
from phi_runtime.data.row import BadRow
from phi_runtime.data.tables import Record

LIMIT_BYTES = 2**30  # of an unpacked workbook, whose texts are in memory
_ZIP = b"PK"  # a workbook is a ZIP archive


def sheet_names(path: Path) -> list[str]:
    """Return the names of the visible sheets. Raises DataError as `workbook_records` does."""
    with _workbook(path, values=True) as book:
        return [sheet.title for sheet in _visible(book)]


def workbook_records(path: Path, name: str | None) -> Iterator[Record | BadRow]:
    """Yield the rows of the sheet `name` that are not empty, with the texts of their cells; None: the first visible sheet.

    Whole numbers are written without a fraction, dates in ISO 8601, and Booleans as `true` and `false`.

    Raises:
        DataError: the workbook cannot be read, or has no such sheet.
    """
    with _workbook(path, values=True) as book:
        sheet = _sheet(path, book, name)
        if not _has_formulas(book, sheet):
            for number, cells in enumerate(_rows(sheet), 1):
                if any(cell.value is not None for cell in cells):
                    yield _record(path, number, cells)
            return
        with _workbook(path, values=False) as formulas:
            pairs = zip(_rows(sheet), _rows(formulas[sheet.title]), strict=True)
            for number, (cells, written) in enumerate(pairs, 1):
                missing = [w.coordinate for c, w in zip(cells, written, strict=True) if c.value is None and w.value]
                if missing:
                    what = f"cell {missing[0]} has a formula without a value"
                    yield BadRow(Location(path, number), what, "open the workbook in Excel or LibreOffice, and save it")
                elif any(cell.value is not None for cell in cells):
                    yield _record(path, number, cells)


def _record(path: Path, number: int, cells: Sequence[Any]) -> Record | BadRow:
    for cell in cells:
        if cell.data_type == "e":
            return BadRow(
                Location(path, number), f"cell {cell.coordinate} is an error: {cell.value}", "fix the formula"
            )
    return number, [text_of_cell(cell) for cell in cells]


def text_of_cell(cell: Any) -> str:
    """Return the text of a cell."""
    from openpyxl.utils.escape import unescape

    value = cell.value
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    if isinstance(value, datetime.datetime):
        has_time = value.time() != datetime.time() or "h" in str(cell.number_format).lower()
        return value.isoformat() if has_time else value.date().isoformat()
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    return unescape(value) if isinstance(value, str) else str(value)


def _unpacked_bytes(path: Path) -> int:
    try:
        with zipfile.ZipFile(path) as archive:
            return sum(entry.file_size for entry in archive.infolist())
    except zipfile.BadZipFile:  # reported when it is opened
        return 0


@contextmanager
def _workbook(path: Path, *, values: bool) -> Iterator[Any]:
    """Open a workbook for streaming, with the values or the formulas of its cells."""
    import openpyxl

    if not path.exists():
        raise missing_file(path)
    require_file(path)
    with path.open("rb") as file:
        start = file.read(16)
    if start.startswith(_ZIP) and (unpacked := _unpacked_bytes(path)) > LIMIT_BYTES:
        raise DataError(
            f"the workbook unpacks to {unpacked / 1e9:.1f} GB, more than {LIMIT_BYTES / 1e9:.0f} GB",
            where=Location(path),
            fix="save it as .csv",
        )
    if not start.startswith(_ZIP):
        refuse_binary(path, start)
        raise DataError("the file is no workbook", where=Location(path), fix="save it as .xlsx, or name it .csv")
    book = None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of styles and extensions, which are not read
            book = openpyxl.load_workbook(path, read_only=True, data_only=values, keep_links=False)
            yield book
    except (DataError, MemoryError):
        raise
    except Exception as e:  # openpyxl raises any kind for a damaged file
        what = f"the workbook cannot be read ({str(e)[:100] or type(e).__name__})"
        raise DataError(what, where=Location(path), fix="save it again as .xlsx, or as .csv") from None
    finally:
        if book is not None:
            book.close()


def _rows(sheet: Any) -> Iterator[Any]:
    sheet.reset_dimensions()  # which may be wrong, or millions of empty cells
    return iter(sheet.iter_rows())


def _visible(book: Any) -> list[Any]:
    return [sheet for sheet in book.worksheets if sheet.sheet_state == "visible"] or book.worksheets


def _sheet(path: Path, book: Any, name: str | None) -> Any:
    sheets = {sheet.title: sheet for sheet in book.worksheets}
    if name is None and sheets:
        return _visible(book)[0]
    if name in sheets:
        return sheets[name]
    what = f"the workbook has no sheet `{name}`" if name else "the workbook has no sheet with cells"
    raise DataError(what, where=Location(path), fix=f"its sheets are {', '.join(sheets) or 'none'}")


def _has_formulas(book: Any, sheet: Any) -> bool:
    """Return True if a cell of the sheet has a formula, by its XML."""
    end = b""
    with book._archive.open(sheet._worksheet_path) as stream:
        while piece := stream.read(2**18):
            if b"<f>" in end + piece or b"<f " in end + piece:
                return True
            end = piece[-2:]
    return False
