"""Other names for columns whose own cannot be in a text template, such as the questions of a form."""

from __future__ import annotations

from collections.abc import Iterable

from phi_runtime.data.column_meanings import key_of
from phi_runtime.data.template import is_placeholder

_LONGEST = 40  # characters


def aliases_of(names: Iterable[str]) -> dict[str, str]:
    """Return another name for each of `names` that cannot be a placeholder; all names of the result are different."""
    names = list(names)
    used = {*names}
    aliases: dict[str, str] = {}
    for name in names:
        if not is_placeholder(name) or name != name.strip():
            alias, number = _alias(name), 1
            while alias in used:
                number += 1
                alias = f"{_alias(name)}_{number}"
            aliases[name] = alias
            used.add(alias)
    return aliases


def _alias(name: str) -> str:
    """Return the words of `name` in lower case, joined by `_`; `how_are_you` for "How are you?"."""
    words = key_of(name)
    if len(words) > _LONGEST:
        words = words[: _LONGEST + 1].rpartition("_")[0] or words[:_LONGEST]
    return words if is_placeholder(words) else f"column_{words}".strip("_")
