"""Sizes of texts that estimate their tokens, and the longest of many texts."""

from __future__ import annotations

import heapq
from typing import Any

_KEPT = 50  # longest items, one of which is the longest in tokens


class Longest:
    """The longest items by their sizes, of all that are added."""

    def __init__(self) -> None:
        self.heap: list[tuple[int, int, Any]] = []
        self.added = 0

    def add(self, size: int, item: Any) -> None:
        self.added += 1
        if len(self.heap) < _KEPT:
            heapq.heappush(self.heap, (size, self.added, item))
        elif size > self.heap[0][0]:
            heapq.heapreplace(self.heap, (size, self.added, item))

    @property
    def size(self) -> int:
        return max((size for size, _, _ in self.heap), default=0)

    @property
    def items(self) -> tuple[Any, ...]:
        return tuple(item for _, _, item in self.heap)


def size_of(text: str) -> int:
    """Return a size that is at least twice the number of tokens of usual text: characters, or twice the bytes outside ASCII."""
    if text.isascii():
        return len(text)
    ascii_bytes = len(text.encode("ascii", "ignore"))
    return ascii_bytes + 2 * (len(text.encode("utf-8", "replace")) - ascii_bytes)
