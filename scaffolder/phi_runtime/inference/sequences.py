"""Sequences with their KV cache, kept for the next turn of a conversation (prefix caching)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Protocol

from phi_runtime.core.common_prefix import common_prefix

if TYPE_CHECKING:
    import numpy as np

MIN_PREFILL = 2
"""Fewest prompt tokens to read in one step. 4-bit kernels round a single token differently from the same token among
several (ONNX Runtime 1.31: logits differ by 0.7, while all larger numbers give the same bits); an answer must not depend
on how its prompt was split."""
PREFILL_CHUNK = 256
"""Prompt tokens to read in one step, so that other answers get their turn."""


class CachedSequence(Protocol):
    """One sequence in the KV cache of a model.

    Attributes:
        ids: Its tokens.
        prefilled: Number of leading tokens that were read as a prompt, rather than generated one by one.
        prompt_length: Tokens of the last prompt.
        capacity: Tokens that fit into its cache.
        adapter: Adapter that it was computed with.
        rope_switch: Length in tokens above which its model may use other rotary factors for all tokens; None if they never change.
    """

    ids: list[int]
    prefilled: int
    prompt_length: int
    capacity: int
    adapter: str | None
    rope_switch: int | None

    def rewind(self, length: int) -> None:
        """Drop all but the first `length` tokens."""
        ...

    def prefill(self, ids: Sequence[int]) -> None:
        """Read a chunk of the prompt: at least MIN_PREFILL tokens, unless the prompt is shorter."""
        ...

    def logits(self) -> np.ndarray:
        """Return the logits of the next token, (V,) in float32."""
        ...

    def append(self, token: int) -> None:
        """Append a token that the sampler chose."""
        ...

    def step(self, logits: np.ndarray | None = None) -> int:
        """Append and return the token that the model chooses, from `logits` (V,) if given."""
        ...


class SequenceCache:
    """Idle sequences that wait for the next turn of their conversation.

    Args:
        limit: Sequences to keep, in addition to those in use; 0 keeps none.
        create: Creates a sequence for a capacity in tokens and an adapter.
    """

    def __init__(self, limit: int, create: Callable[[int, str | None], CachedSequence]) -> None:
        self.limit, self.create = limit, create
        self.idle: list[CachedSequence] = []  # least recently used first
        self.busy = 0

    def acquire(self, ids: Sequence[int], capacity: int, adapter: str | None) -> tuple[CachedSequence, int]:
        """Return a sequence for the prompt `ids`, and the number of its tokens that it already holds.

        An idle sequence is reused if that saves more tokens than it drops. Otherwise a new one is created, or the least
        recently used one is taken.
        """
        candidates = [
            (reusable_prefix(sequence, ids), sequence)
            for sequence in self.idle
            if sequence.adapter == adapter and sequence.capacity >= capacity
        ]
        best = max(candidates, key=lambda pair: 2 * pair[0] - len(pair[1].ids), default=None)
        reused: CachedSequence | None = None
        if best and 2 * best[0] > len(best[1].ids):
            reused = best[1]
        elif self.full and self.idle:
            oldest = self.idle[0]
            if oldest.adapter == adapter and oldest.capacity >= capacity:
                reused = oldest
            else:
                del self.idle[0]  # free its memory before the new one is allocated
                del oldest
        self.busy += 1
        try:
            if reused is None:
                return self.create(capacity, adapter), 0
            self.idle.remove(reused)
            length = reusable_prefix(reused, ids)
            reused.rewind(length)
            return reused, length
        except BaseException:
            self.busy -= 1
            raise

    @property
    def full(self) -> bool:
        return len(self.idle) + self.busy >= max(self.limit, 1)

    def release(self, sequence: CachedSequence, reusable: bool = True) -> None:
        """Return a sequence; it is dropped if it failed in the middle of a step (not `reusable`)."""
        self.busy -= 1
        if reusable and len(self.idle) + self.busy < self.limit:
            self.idle.append(sequence)


def crosses(switch: int | None, length: int, later: int) -> bool:
    """Return True if a sequence has other rotary factors at `later` tokens than at `length`; see `rope_switch`."""
    return switch is not None and length <= switch < later


def reusable_prefix(sequence: CachedSequence, ids: Sequence[int]) -> int:
    """Return the number of tokens of the prompt `ids` that `sequence` need not read again.

    A prompt that continues the conversation also reuses the last answer. Any other prompt reuses only tokens that were read as
    a prompt: the same prompt then gives the same logits to the last bit, whatever came before.
    """
    common = common_prefix(sequence.ids, ids)
    if common <= sequence.prompt_length:
        common = min(common, sequence.prefilled)
    common = max(0, min(common, len(ids) - MIN_PREFILL))
    if crosses(sequence.rope_switch, common, max(len(sequence.ids), len(ids))):
        return 0  # what it holds, or what is to come, has other rotary factors
    return common


def prompt_chunks(sequence: CachedSequence, ids: Sequence[int]) -> list[Sequence[int]]:
    """Split the tokens of a prompt that `sequence` does not hold into chunks to read one after another.

    The first chunk reaches past `rope_switch` if the prompt does: the length after a step decides on the rotary factors of all
    tokens, and those that were read in an earlier step with others would be read twice.
    """
    held, switch = len(sequence.ids), sequence.rope_switch
    if switch is not None and held <= switch < held + len(ids):
        return prefill_chunks(ids, first=switch + 1 - held)
    return prefill_chunks(ids)


def read_prompt(sequence: CachedSequence, ids: Sequence[int]) -> None:
    """Read the prompt `ids`, except for the tokens that `sequence` holds and can reuse."""
    cached = reusable_prefix(sequence, ids)
    sequence.rewind(cached)
    for chunk in prompt_chunks(sequence, ids[cached:]):
        sequence.prefill(chunk)
    sequence.prompt_length = len(ids)


def prefill_chunks(ids: Sequence[int], size: int = PREFILL_CHUNK, first: int = 0) -> list[Sequence[int]]:
    """Split a prompt into chunks of `size` tokens, the first of at least `first` and the last of at least MIN_PREFILL."""
    starts = [0, *range(max(size, first), len(ids), size)] if ids else []
    if len(starts) > 1 and len(ids) - starts[-1] < MIN_PREFILL:
        starts.pop()
    return [ids[start:end] for start, end in pairwise([*starts, len(ids)])]
