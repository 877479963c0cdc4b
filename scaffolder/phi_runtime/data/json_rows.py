"""Read rows of JSON: lines, an array, objects one after another, rows under a key, or columns as pandas writes them."""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from phi_runtime.config.file_formats import unpacked_name
from phi_runtime.core.errors import DataError, Location
from phi_runtime.data.encodings import FIX as ENCODING_FIX
from phi_runtime.data.files import head, lines, opened
from phi_runtime.data.json_window import TOO_LONG, JsonDecoder, Window, json_fix
from phi_runtime.data.row import FIX, BadRow, Row

Layout = Literal["lines", "array", "objects", "field", "columns"]
_FIELD_FIX = "set `field` (`new --field`) to the key that holds the rows"
_SPLIT_KEYS = {"columns", "index", "data"}  # of pandas with orient="split"
_ROWS_FIX = "write an array of objects, or one object per line"
_MOST_COLUMNS = 100  # each is read through its own open file; an object with more keys is no table
_MESSAGE_KEYS = ("role", "from")  # of an object that is a message of a conversation, not a row


@dataclass(frozen=True)
class JsonForm:
    """The layout of a JSON file, and the key of its rows, or the keys of its columns."""

    layout: Layout
    keys: tuple[str, ...] = ()


def json_form(path: Path, encoding: str, field: str | None) -> JsonForm:
    """Detect the layout of a JSON file by its beginning; of a file that is one object, by all of its keys.

    Raises:
        DataError: the file is one object, and its rows are in none or in several of its keys.
    """
    if field:
        return JsonForm("field", (field,))
    text, complete = head(path, encoding)
    text = text.lstrip()
    if not text.startswith("{"):
        return JsonForm("array" if text.startswith("[") else "lines")
    first, _, rest = text.partition("\n")
    in_json_file = unpacked_name(path).suffix.lower() == ".json"
    end, ended = _end_of_value(first)
    if ended:
        alone = complete and in_json_file and not rest.strip()
        return (_form_of_object(path, encoding, one_line=True) if alone else None) or JsonForm("lines")
    broken = end < len(first.rstrip()) or _is_object(rest.partition("\n")[0])
    if broken or (not rest and (complete or not in_json_file)):
        return JsonForm("lines")  # the reader locates what is wrong
    end, ended = _end_of_value(text)  # over several lines
    if text[end:].strip() or (ended and not complete) or (complete and not ended):
        return JsonForm("objects")
    return _form_of_object(path, encoding, one_line=False) or JsonForm("lines")


def _is_object(line: str) -> bool:
    return line.startswith("{") and _end_of_value(line) == (len(line.rstrip()), True)


def _end_of_value(text: str) -> tuple[int, bool]:
    """Return the end of the JSON value at the start of `text` and True; the place of an error in it and False."""
    try:
        return json.JSONDecoder().raw_decode(text)[1], True
    except json.JSONDecodeError as e:
        return len(text) if e.msg.startswith("Unterminated string") else e.pos, False
    except (ValueError, RecursionError):
        return 0, False


def _members(window: Window) -> Iterator[tuple[str, str]]:
    """Yield the keys of the object at the position, each with the kind of its value."""
    for key in window.elements():
        kind = {"[": "list", "{": "object"}.get(window.next(), "scalar")
        if kind == "scalar":
            window.value()
        else:
            kind = _kind_of_elements(window, kind)
        yield key, kind
    window.go_to(window.at + 1)


def _kind_of_elements(window: Window, kind: str) -> str:
    """Return `rows`, `messages`, `values` or `indexed` (values by number), or `kind` for other elements; move behind them."""
    kinds = set()
    for key in window.elements():
        value = window.value()
        if kind == "list" and isinstance(value, dict):
            kinds.add("messages" if any(name in value for name in _MESSAGE_KEYS) else "rows")
        elif kind == "list":
            kinds.add("values")
        else:
            kinds.add("indexed" if key.isdecimal() and not isinstance(value, dict) else kind)
    window.go_to(window.at + 1)
    return kinds.pop() if len(kinds) == 1 else kind


def _form_of_object(path: Path, encoding: str, *, one_line: bool) -> JsonForm | None:
    """Return the form of a file that is one object; None if it is a row itself.

    Raises:
        DataError: several keys hold rows, or one is there twice, or it is no row: all values are objects or lists.
    """
    with opened(path, encoding) as stream:
        window = Window(path, stream)
        window.next()
        members = list(_members(window))
        if window.next():
            return JsonForm("objects")
    kinds = dict(members)
    rows = [key for key, kind in kinds.items() if kind == "rows"]
    by_columns = set(kinds.values()) in ({"values"}, {"indexed"}) and set(kinds) != _SPLIT_KEYS
    by_columns = by_columns and len(kinds) <= _MOST_COLUMNS
    if (rows or by_columns) and len(kinds) < len(members):
        twice = next(key for key, count in Counter(key for key, _ in members).items() if count > 1)
        fix = "keep one of the two, or name them differently"
        raise DataError(f"the file has the key `{twice}` twice", where=Location(path), fix=fix)
    if len(rows) == 1:
        return JsonForm("field", (rows[0],))
    if rows:
        fix = f"set `field` (`new --field`) to one of them, such as {rows[0]}"
        raise DataError(f"the keys {', '.join(rows)} all hold rows", where=Location(path), fix=fix)
    if by_columns:
        return JsonForm("columns", tuple(kinds))
    if one_line and {"scalar", "messages"} & set(kinds.values()):
        return None
    shown = ", ".join([*kinds][:5]) + (", …" if len(kinds) > 5 else "")
    what = f"the file is one JSON object ({shown or 'empty'}), not rows"
    raise DataError(what, where=Location(path), fix=_ROWS_FIX)


def json_rows(path: Path, stream: io.BufferedReader, form: JsonForm, encoding: str) -> Iterator[Row | BadRow]:
    """Yield the rows of a JSON file of this form. Raises DataError if it cannot be read further."""
    match form.layout:
        case "lines":
            yield from _json_lines(path, stream)
        case "columns":
            yield from _column_rows(path, form.keys, encoding)
        case "objects":
            yield from _objects(Window(path, stream))
        case "field":
            window = Window(path, stream)
            _go_to_key(window, form.keys[0], "[")
            yield from _array_rows(window)
        case "array":
            window = Window(path, stream)
            yield from _array_rows(window)
            window.finish()


def _json_lines(path: Path, stream: io.BufferedReader) -> Iterator[Row | BadRow]:
    decoder = JsonDecoder()
    for number, line in lines(stream):
        text = decoded(line, path, number)
        if isinstance(text, BadRow):
            yield text
            continue
        text = text.rstrip("\r\n")  # else a truncated value is reported on the next line
        try:
            value = decoder.decode(text)
        except ValueError as e:
            column = getattr(e, "colno", 1)
            what = f"this row is not valid JSON ({getattr(e, 'msg', e)})"
            fix = "write one object per line, without a comma after it" if "Extra data" in what else FIX
            yield BadRow(Location(path, number, column), what, json_fix(text, column - 1, fix))
        except RecursionError:
            yield BadRow(Location(path, number), "this row is nested too deeply")
        else:
            yield _row(value, path, decoder, number)


def decoded(line: bytes | None, path: Path, number: int) -> str | BadRow:
    """Return the text of a line of a file in UTF-8, without a byte order mark."""
    if line is None:
        return BadRow(Location(path, number), TOO_LONG)
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError:
        return BadRow(Location(path, number), "this line is not UTF-8 text", ENCODING_FIX)
    return text.removeprefix("\ufeff")  # in the middle of files that were concatenated


def _row(value: Any, path: Path, decoder: JsonDecoder, line: int, column: int = 0) -> Row | BadRow:
    if decoder.duplicates:
        what = f"this row has the key `{decoder.duplicates[0]}` twice, with different values"
        return BadRow(Location(path, line, column), what, f"keep one of the two, or name them differently: {FIX}")
    if not isinstance(value, dict):
        what = "this row is not a JSON object with column names"
        return BadRow(Location(path, line, column), what, 'write rows as {"column": "text", …}')
    if next(iter(value), "").startswith("\ufeff"):
        value = {name.removeprefix("\ufeff"): inner for name, inner in value.items()}
    return Row(value, line)


def _row_at(window: Window) -> Row | BadRow:
    """Return the row at the position of `window`, and move behind it."""
    line, column = window.line, window.column
    return _row(window.value(), window.path, window.decoder, line, column)


def _objects(window: Window) -> Iterator[Row | BadRow]:
    while window.next():
        yield _row_at(window)


def _array_rows(window: Window) -> Iterator[Row | BadRow]:
    """Yield the rows of the array at the position of `window`, and stop at its last bracket."""
    for _ in window.elements():
        yield _row_at(window)


def _go_to_key(window: Window, key: str, opening: str) -> None:
    """Move to the array or object under `key` of the object that the file is."""
    names: list[str] = []
    if window.next() == "{":
        for name in window.elements():
            names.append(name)
            if name == key and window.next() in opening:
                return
            if name == key:
                raise DataError(f"`{key}` is not an array of rows", where=window.where, fix=_FIELD_FIX)
            window.skip()
    what = f"the file has no key `{key}` (it has {', '.join(names) or 'none'})"
    raise DataError(what, where=Location(window.path), fix=_FIELD_FIX)


def _column_rows(path: Path, names: tuple[str, ...], encoding: str) -> Iterator[Row | BadRow]:
    """Yield the rows of an object of columns: each is read through its own window, all in step."""
    with ExitStack() as files:
        columns = []
        for name in names:
            window = Window(path, files.enter_context(opened(path, encoding)))
            _go_to_key(window, name, "[{")
            columns.append((window, window.elements()))
        number = 0
        while True:
            number += 1
            keys = [next(elements, None) for _, elements in columns]
            if keys[0] is None and len(set(keys)) == 1:
                return
            if len(set(keys)) > 1:
                what = f"the columns {', '.join(names)} differ in their rows from row {number} on"
                raise DataError(what, where=Location(path), fix=_ROWS_FIX)
            yield Row({name: window.value() for name, (window, _) in zip(names, columns, strict=True)}, number)
