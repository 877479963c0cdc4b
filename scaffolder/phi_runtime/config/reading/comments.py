"""Attach each comment of a config to a key, as a reader would.

A comment on its own line belongs to the next key or list item; if none follows before the bracket closes (in YAML: before the
indentation ends), it comes after the last one. A trailing comment belongs to the value on its line. Comments above and below
everything belong to the file; in YAML, which has no outer bracket, a blank line separates them.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import defaultdict
from dataclasses import dataclass
from typing import Literal

from phi_runtime.config.reading.source import Comment, KeyPath, Source


@dataclass(frozen=True)
class Comments:
    """Comments of one key or list item; each text of `before` and `after` is one line."""

    before: tuple[str, ...] = ()
    trailing: str = ""
    after: tuple[str, ...] = ()


def attach(source: Source) -> dict[KeyPath, Comments]:
    """Return the comments of a file by key path; those on a YAML merge are under `(…, "<<")`."""
    paths = list(source.spans)
    starts = [source.spans[key_path][0] for key_path in paths]
    lines = [0, *(match.end() for match in re.finditer("\n", source.text))]
    texts: dict[KeyPath, dict[str, list[str]]] = {}
    for comment in source.comments:
        following = bisect_right(starts, comment.offset)
        previous = paths[following - 1] if following else None
        key_path = None if comment.own_line else _trailing(comment, previous, source, lines)
        place: Literal["before", "trailing", "after"] = "trailing"
        if key_path is None:
            key_path, place = _on_own_line(comment, previous, paths[following : following + 1], source)
        if comment.text or place != "trailing":
            texts.setdefault(key_path, defaultdict(list))[place] += comment.text.split("\n")
    return {
        key_path: Comments(tuple(of["before"]), " ".join(filter(None, of["trailing"])), tuple(of["after"]))
        for key_path, of in texts.items()
    }


def _trailing(comment: Comment, previous: KeyPath | None, source: Source, lines: list[int]) -> KeyPath | None:
    """Return the entry that begins, or else ends, on the line of the comment: the outermost complete one.

    Args:
        lines: Offsets at which lines begin.
    """
    if previous is None:
        return None
    line = lines[bisect_right(lines, comment.offset) - 1]
    begins_here = source.spans[previous][0] >= line
    key_path = previous if begins_here else None
    for depth in range(len(previous), -1, -1):
        start, end = source.spans[previous[:depth]]
        if line < end <= comment.offset and (start >= line or not begins_here):
            key_path = previous[:depth]
    return key_path


def _on_own_line(
    comment: Comment, previous: KeyPath | None, following: list[KeyPath], source: Source
) -> tuple[KeyPath, Literal["before", "after"]]:
    if previous is None:
        return (), "before"
    around = previous
    while source.spans[around][1] <= comment.offset:
        if not around:
            return (), "after"
        around = around[:-1]
    if following and following[0][: len(around)] == around:
        return following[0], "before"
    if around == previous:
        return around, "before"  # an empty container, or between a key and its value
    return previous[: len(around) + 1], "after"
