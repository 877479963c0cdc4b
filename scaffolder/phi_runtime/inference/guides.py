"""Bounds on guides: those that the runtime would compile into gigabytes are refused first.

Measured with onnxruntime-genai 0.18 (llguidance): a grammar has symbols for each item up to `minItems` and `maxItems`, so that
10,000 take 30 MB and 20,000,000 all memory, which ends the process. Repetitions in strings, patterns and regular expressions are
not expanded, and objects and alternatives grow with the text of the schema.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from phi_runtime.inference.generator import InvalidGuide

MOST_ITEMS = 10_000
"""Items of all arrays of a schema together."""
MOST_CHARACTERS = 200_000
_DEEPEST = 64


def require_bounded(schema: Any) -> None:
    """Check the size of a JSON schema before it is compiled.

    Raises:
        InvalidGuide: Its arrays may have more than `MOST_ITEMS` items, or it is nested too deeply.
    """
    counts: dict[str, float] = {"minItems": 0, "maxItems": 0}
    for depth, part in _objects(schema):
        if depth > _DEEPEST:
            raise InvalidGuide(f"the JSON schema is nested more than {_DEEPEST} levels deep", fix="simplify it")
        for key in counts:
            if isinstance(value := part.get(key), int | float):
                counts[key] += value
    for key, count in counts.items():
        if count > MOST_ITEMS:
            raise InvalidGuide(
                f"`{key}` of the JSON schema adds up to {count:,.0f}; at most {MOST_ITEMS:,} items are supported",
                fix=f"lower `{key}`",
            )


def require_short(text: str) -> None:
    """Raise InvalidGuide if the text of a guide is too long."""
    if len(text) > MOST_CHARACTERS:
        raise InvalidGuide(
            f"the guide has {len(text):,} characters; at most {MOST_CHARACTERS:,} are supported", fix="shorten it"
        )


def _objects(schema: Any) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield all objects in a schema with their depth, without recursion."""
    pending = [(0, schema)]
    while pending:
        depth, part = pending.pop()
        if isinstance(part, dict):
            yield depth, part
            pending += [(depth + 1, inner) for inner in part.values()]
        elif isinstance(part, list):
            pending += [(depth + 1, inner) for inner in part]
