"""Refuse data that is not text with one answer a row, and name the columns that can be trained."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from phi_runtime.core.errors import DataError, Location
from phi_runtime.data.chat import holds_messages
from phi_runtime.data.column_meanings import Profile, is_media, means, named, named_answers
from phi_runtime.data.rows import Row
from phi_runtime.data.transcripts import refuse_message_tree


def refuse_other_purposes(path: Path, first: Row) -> None:
    """Raise DataError for data with two answers to compare, and for data with images, audio or video."""
    names, where = list(first.values), Location(path, first.line)
    better, worse = named(names, "chosen"), named(names, "rejected")
    if better and worse:
        prompts = [name for name in names if name not in (*better, *worse) and holds_messages(first.values[name])]
        is_chat = isinstance(first.values[better[0]], list)
        raise DataError(
            f"this is preference data: a better answer `{better[0]}` and a worse one `{worse[0]}`",
            where=where,
            fix=f"train on the better answers: {_listed([*prompts, *better] if is_chat else names, worse, better[0])}",
        )
    if "current_node" not in first.values:
        refuse_message_tree(first.values, where)
    if media := [name for name in names if is_media(name, first.values[name])]:
        fix = f"train without them: {_listed(named(names, 'conversation')[:1] or names, media)}"
        raise DataError(f"`{media[0]}` is not text, and this trains text models", where=where, fix=fix)


def refuse_lists(path: Path, profiles: Mapping[str, Profile]) -> None:
    """Raise DataError if the options of a question, or its only answer, are not text."""
    texts = [name for name, profile in profiles.items() if profile.texts]
    expected = named(profiles, "options") + ([] if named_answers(texts) else named(profiles, "answers", "answer"))
    if lists := [name for name in expected if profiles[name].filled and name not in texts]:
        raise DataError(
            f"`{lists[0]}` is not text but a list or an object",
            where=Location(path),
            fix=f"convert it to text, or choose other columns: {_listed(profiles, lists)}",
        )


def _listed(names: Iterable[str], excluded: Sequence[str], answer: str = "") -> str:
    """Return the flag that selects the columns that are not `excluded`, the answer last."""
    left = [name for name in names if name not in excluded and not means(name, "id", "score", "origin")]
    answer = answer or next(iter(named_answers(left)), left[-1] if left else "")
    return columns_flag([*(name for name in left if name != answer), answer])


def columns_flag(names: Iterable[str]) -> str:
    """Return the flag of `new` that selects these columns, quoted for a shell."""
    return f"--columns {shlex.quote(as_flag(names))}"


def as_flag(names: Iterable[str]) -> str:
    """Return the value of --columns for these columns: a comma between them, and quotes around those with a comma."""
    return ",".join(f'"{name}"' if "," in name else name for name in names)
