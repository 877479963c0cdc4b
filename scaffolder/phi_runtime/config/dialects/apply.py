"""One part of a config, its older spellings put right by their table."""

from __future__ import annotations

import typing
from collections.abc import Sequence

from pydantic.fields import FieldInfo

from phi_runtime.config.dialects.draft import EMPTY, Draft
from phi_runtime.config.dialects.keys import table_of
from phi_runtime.config.dialects.table import Older
from phi_runtime.config.reading.source import KeyPath
from phi_runtime.config.schema import Strict


def respell(draft: Draft, at: KeyPath, part: type[Strict] | Older) -> None:
    """Un-nests, renames, leaves out and refuses the keys of the object at `at`; nothing where there is no object.

    A null goes where a key takes none: in Olive most options may be null, and mean their default then."""
    older = part if isinstance(part, Older) else table_of(part)
    if not isinstance(draft.get(at), dict):
        return
    if older.nested:
        draft.lift((*at, older.nested))
    for key in draft.keys(at):
        here = (*at, key)
        if key in older.renamed:
            draft.rename(here, older.renamed[key])
        elif key in older.left_out:
            draft.drop(here, older.left_out[key])
        elif key in older.refused:
            if draft.get(here) is None or draft.get(here) is False:  # the default, spelled out
                draft.drop(here, "it is off, as always here")
            else:
                draft.refuse(here, f"`{key}`: {older.refused[key]}")
    if isinstance(part, Older):
        return
    for key, field in part.model_fields.items():
        if draft.get((*at, key)) is None and not takes_null(field):
            draft.drop((*at, key), EMPTY)


def takes_null(field: FieldInfo) -> bool:
    """Whether null is a value of its own there, or a fault because the key is required."""
    return field.is_required() or type(None) in typing.get_args(field.annotation)


def type_name(draft: Draft, at: KeyPath, names: Sequence[str]) -> None:
    """The name of a type as it is written today: Olive reads them whatever their case."""
    value = draft.get(at)
    if not isinstance(value, str) or value in names:
        return
    for name in names:
        if name.casefold() == value.casefold():
            draft.replace(at, name, f"`{value}` is written `{name}`", rule="older-spelling")
