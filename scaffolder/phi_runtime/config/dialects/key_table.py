"""Key tables: what became of the keys that older Olive releases had in one part of a config."""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pydantic.fields import FieldInfo

from phi_runtime.config.dialects.draft import EMPTY, OFF, Draft
from phi_runtime.config.reading.source import KeyPath
from phi_runtime.config.schema import Strict

_TOKENS = ("token", "use_auth_token", "hf_token")  # true means the one of the environment


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
        """Unnest, rename, ignore and refuse the keys of the object at `at`, if there is one; refuse access tokens in it."""
        if not isinstance(draft.get(at), dict):
            return
        if self.nested:
            draft.unnest((*at, self.nested))
        for key in draft.keys(at):
            path = (*at, key)
            if key in _TOKENS and isinstance(draft.get(path), str):
                message = "never write a token into a config; put it into .env as `HF_TOKEN` and revoke this one"
                draft.refuse(path, message, rule="secret")
            elif key in self.renamed:
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
    for key, field_ in _written(draft, at, model):
        if draft.get((*at, key)) is None and not takes_null(field_):
            draft.drop((*at, key), EMPTY)


def _written(draft: Draft, at: KeyPath, model: type[Strict]) -> list[tuple[str, FieldInfo]]:
    """Return the fields of `model` that the object at `at` has, in their order."""
    keys = set(draft.keys(at))
    return [(key, field_) for key, field_ in model.model_fields.items() if key in keys]


def takes_null(field: FieldInfo) -> bool:
    """Return True if null is a value of the field, or an error because the field is required."""
    return field.is_required() or type(None) in typing.get_args(field.annotation)


def fix_case(draft: Draft, at: KeyPath, names: Sequence[str]) -> None:
    """Write the name at `at` in the case of `names`, without blanks around it: Olive ignores the case of names."""
    value = draft.get(at)
    if not isinstance(value, str) or value in names:
        return
    for name in names:
        if name.casefold() == value.strip().casefold():
            draft.replace(at, name, f"`{value}` renamed to `{name}`", rule="renamed")
            return


def fix_values(draft: Draft, at: KeyPath, model: type[Strict]) -> None:
    """Write flags as true and false, and named values in their own case: Olive reads 1 as true and ignores case and blanks."""
    for key, field_ in _written(draft, at, model):
        path = (*at, key)
        value = draft.get(path)
        if type(value) is int and value in (0, 1) and is_flag(field_):
            draft.replace(path, bool(value), f"`{key}` is now `{str(bool(value)).lower()}`")
        elif isinstance(value, str) and (names := named_values(field_)):
            fix_case(draft, path, names)


def is_flag(field: FieldInfo) -> bool:
    """Return True if the field is true, false or null, and nothing else."""
    return set(_members(field.annotation)) - {type(None)} == {bool}


def named_values(field: FieldInfo) -> list[str]:
    """Return the strings that the field may be; empty if it may be another string or an object."""
    kinds = [kind for kind in _members(field.annotation) if kind is not type(None)]
    if not all(typing.get_origin(kind) is typing.Literal for kind in kinds):
        return []
    return [value for kind in kinds for value in typing.get_args(kind) if isinstance(value, str)]


def _members(annotation: object) -> tuple[object, ...]:
    """Return the members of a union, or the annotation itself."""
    is_union = isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is typing.Union
    return typing.get_args(annotation) if is_union else (annotation,)


NOTE = "^(x-|_)|^(comment|metadata)$"
"""Keys with remarks of the author."""


def is_note(key: object) -> bool:
    """Return True for a key that holds a remark of the author."""
    return isinstance(key, str) and re.search(NOTE, key) is not None
