"""To which key each comment of a config belongs.

A reader's rules: a comment on a line of its own is about the next key or list item; where none follows before the bracket
closes (or, in YAML, before the indentation ends), it comes after the last one. A comment beside something is about that.
Above and below everything, it is about the file: in YAML, where no bracket shows it, a blank line sets it apart.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, replace
from typing import Literal

from phi_runtime.config.reading.source import Comment, KeyPath, Source


@dataclass(frozen=True)
class Comments:
    """What is said about one key or list item; each text of `before` and `after` is a line of its own."""

    before: tuple[str, ...] = ()
    trailing: str = ""
    after: tuple[str, ...] = ()


def attach(source: Source) -> dict[KeyPath, Comments]:
    """The comments of a file by key path. Those about a YAML merge are found under `(…, "<<")`."""
    paths = list(source.spans)
    starts = [source.spans[key_path][0] for key_path in paths]
    found: dict[KeyPath, Comments] = {}
    for comment in source.comments:
        following = bisect_right(starts, comment.offset)
        previous = paths[following - 1] if following else None
        key_path = None if comment.own_line else _beside(comment, previous, source)
        place: Literal["before", "trailing", "after"] = "trailing"
        if key_path is None:
            key_path, place = _on_own_line(comment, previous, paths[following : following + 1], source)
        if comment.text or place != "trailing":
            found[key_path] = _with(found.get(key_path, Comments()), place, comment.text)
    return found


def _beside(comment: Comment, previous: KeyPath | None, source: Source) -> KeyPath | None:
    """What begins, or else ends, on the line of the comment: the outermost that is complete."""
    if previous is None:
        return None
    line = source.text.rfind("\n", 0, comment.offset) + 1
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
        return around, "before"  # a container without anything in it, or the way from a key to its value
    return previous[: len(around) + 1], "after"


def _with(comments: Comments, place: Literal["before", "trailing", "after"], text: str) -> Comments:
    if place == "trailing":
        return replace(comments, trailing=" ".join(filter(None, [comments.trailing, *text.split("\n")])))
    lines = (*getattr(comments, place), *text.split("\n"))
    return replace(comments, before=lines) if place == "before" else replace(comments, after=lines)
