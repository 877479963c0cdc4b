"""What a model remembers of the texts it has read: sequences with their key-value cache, kept for the next turn of a conversation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np

AT_ONCE = 2
"""Tokens of a prompt that are read at once, at least: 4-bit kernels round a single token otherwise than the same token among several
(seen in ONNX Runtime 1.31: logits differ by 0.7, while all greater numbers give the same bits). An answer must not depend on that."""
CHUNK = 256
"""Tokens of a prompt that are read in one step, so that other answers get their turn."""


class Cached(Protocol):
    """One sequence in the memory of a model.

    `ids` are its tokens, `read` how many of the first were read as a prompt and not written one by one, `prompt` how many the last
    prompt had, `room` how many it can hold, `adapter` the one that it was read with.
    """

    ids: list[int]
    read: int
    prompt: int
    room: int
    adapter: str | None

    def rewind(self, length: int) -> None:
        """Forgets all but the first `length` tokens."""
        ...

    def extend(self, ids: Sequence[int]) -> None:
        """Reads part of a prompt: at least AT_ONCE tokens, unless the whole prompt is shorter."""
        ...

    def logits(self) -> np.ndarray:
        """Of the next token, (V,) in float32."""
        ...

    def append(self, token: int) -> None:
        """Writes a token that was chosen outside."""
        ...

    def step(self, logits: np.ndarray | None = None) -> int:
        """Writes the token that the model itself chooses, from `logits` (V,) where they are given, and returns it."""
        ...


class Conversations:
    """Sequences that wait for their next turn, at most `limit` of them, with those that are at work.

    `make(room, adapter)` makes a new one. With a limit of 0 nothing is kept.
    """

    def __init__(self, limit: int, make: Callable[[int, str | None], Cached]) -> None:
        self.limit, self.make = limit, make
        self.idle: list[Cached] = []  # the one that was used last stands last
        self.busy = 0

    def take(self, ids: Sequence[int], room: int, adapter: str | None) -> tuple[Cached, int]:
        """A sequence with `room` for so many tokens, and how many of the first of `ids` it holds already.

        One whose beginning fits is taken where more is saved by that than is forgotten; else a new one, or the one unused longest.
        """
        found = [(known(each, ids), each) for each in self.idle if each.adapter == adapter and each.room >= room]
        best = max(found, key=lambda pair: 2 * pair[0] - len(pair[1].ids), default=None)
        chosen: Cached | None = None
        if best and 2 * best[0] > len(best[1].ids):
            chosen = best[1]
        elif self.full and self.idle:
            oldest = self.idle[0]
            if oldest.adapter == adapter and oldest.room >= room:
                chosen = oldest
            else:
                del self.idle[0]  # its memory goes before the new one takes its own
                del oldest
        self.busy += 1
        if chosen is None:
            try:
                return self.make(room, adapter), 0
            except BaseException:
                self.busy -= 1
                raise
        self.idle.remove(chosen)
        length = known(chosen, ids)
        chosen.rewind(length)
        return chosen, length

    @property
    def full(self) -> bool:
        return len(self.idle) + self.busy >= max(self.limit, 1)

    def give_back(self, sequence: Cached, *, sound: bool = True) -> None:
        """The sequence waits for its next turn; one that is not `sound` is forgotten."""
        self.busy -= 1
        if sound and len(self.idle) + self.busy < self.limit:
            self.idle.append(sequence)


def known(sequence: Cached, ids: Sequence[int]) -> int:
    """How many tokens of the prompt `ids` need not be read again.

    Where a conversation goes on, those of its last answer are among them. Else what was written one by one is read anew: the same
    prompt then gives the same logits to the last bit, whatever was asked before.
    """
    common = next((i for i, (a, b) in enumerate(zip(sequence.ids, ids, strict=False)) if a != b), None)
    if common is None:
        common = min(len(sequence.ids), len(ids))
    if common <= sequence.prompt:
        common = min(common, sequence.read)
    return max(0, min(common, len(ids) - AT_ONCE))


def chunks(ids: Sequence[int], size: int = CHUNK) -> list[Sequence[int]]:
    """`ids` in parts of `size`, the last of at least AT_ONCE."""
    cuts = list(range(0, len(ids), size))
    if len(cuts) > 1 and len(ids) - cuts[-1] < AT_ONCE:
        cuts.pop()
    return [ids[start:stop] for start, stop in zip(cuts, [*cuts[1:], len(ids)], strict=True)]
