"""What a table of older spellings says of one part of a config."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Older:
    """Spellings of one part. `nested`: an object that held its keys. `renamed`: old key → new key. `left_out`: key → why it has
    no effect here. `refused`: key → what to do instead of it, because it would have one."""

    nested: str | None = None
    renamed: Mapping[str, str] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)
