"""Dataclasses as JSON values, for a file or another process."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from pydantic import TypeAdapter

T = TypeVar("T")


def to_json(value: Any) -> Any:
    """Return the dataclass `value` with all that it holds as a JSON value: paths as text, tuples as lists."""
    kind: Any = type(value)
    return adapter(kind).dump_python(value, mode="json")


def from_json(kind: type[T], value: Any) -> T:
    """Return the dataclass of type `kind` that `to_json` described."""
    hashable: Any = kind
    result: T = adapter(hashable).validate_python(value)
    return result


@cache
def adapter(kind: Any) -> TypeAdapter[Any]:
    """Return pydantic's adapter of a type, which takes longer to create than to use."""
    from pydantic import TypeAdapter

    return TypeAdapter(kind)
