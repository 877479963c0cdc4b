"""Key tables: what became of the keys that older Olive releases had in one part of a config."""

from __future__ import annotations

import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pydantic.fields import FieldInfo

from phi_runtime.config.dialects.draft import EMPTY, OFF, Draft
from phi_runtime.config.reading.source import KeyPath
from phi_runtime.config.schema import Strict


@dataclass(frozen=True)
class KeyTable:
    """The older keys of one part of a config. Translation and JSON Schema both read it.

    Attributes:
        nested: Key of an object that used to hold the keys of this part.
        renamed: Old key → new key.
        ignored: Key → reason why it has no effect here.
        refused: Key → what to do instead, because ignoring it would change the result.
    """

    nested: str | None = None
    renamed: Mapping[str, str] = field(default_factory=dict)
    ignored: Mapping[str, str] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)

    def apply(self, draft: Draft, at: KeyPath) -> None:
        """Unnest, rename, ignore and refuse the keys of the object at `at`, if there is one."""
        if not isinstance(draft.get(at), dict):
            return
        if self.nested:
            draft.unnest((*at, self.nested))
        for key in draft.keys(at):
            path = (*at, key)
            if key in self.renamed:
                draft.rename(path, self.renamed[key])
            elif key in self.ignored:
                draft.drop(path, self.ignored[key])
            elif key in self.refused:
                if draft.get(path) is None or draft.get(path) is False:  # its default, written out
                    draft.drop(path, OFF)
                else:
                    draft.refuse(path, f"`{key}` is not supported: {self.refused[key]}")


def drop_nulls(draft: Draft, at: KeyPath, model: type[Strict]) -> None:
    """Drop each null whose field takes none: in Olive most options may be null, which means their default."""
    for key, field_ in model.model_fields.items():
        if draft.get((*at, key)) is None and not takes_null(field_):
            draft.drop((*at, key), EMPTY)


def switches(model: type[Strict]) -> list[str]:
    """Return the fields that are true or false."""
    members = {
        key: typing.get_args(field.annotation) or (field.annotation,) for key, field in model.model_fields.items()
    }
    return [key for key, kinds in members.items() if bool in kinds and int not in kinds]


def takes_null(field: FieldInfo) -> bool:
    """Return True if null is a value of the field, or an error because the field is required."""
    return field.is_required() or type(None) in typing.get_args(field.annotation)


def fix_case(draft: Draft, at: KeyPath, names: Sequence[str]) -> None:
    """Write the name at `at` in the case of `names`: Olive ignores the case of type names."""
    value = draft.get(at)
    if not isinstance(value, str) or value in names:
        return
    for name in names:
        if name.casefold() == value.casefold():
            draft.replace(at, name, f"`{value}` renamed to `{name}`", rule="renamed")
