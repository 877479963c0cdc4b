"""Greedy answers of several batches, continued together: a step reads all weights of the model, however many rows it has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from phi_runtime.inference.kv_cache import cache_bytes, join_rows, select_rows
from phi_runtime.inference.prompt_tasks import GreedyAnswer

if TYPE_CHECKING:
    from phi_runtime.inference.transformers import TransformersGenerator

_JOINED_BYTES = 1 << 29  # KV cache of batches that are joined; a larger batch is decoded separately


@dataclass(frozen=True)
class StartedAnswers:
    """Answers with at least one token each, and their prompts in a KV cache.

    Attributes:
        answers: B answers.
        cache: The prompts, and no token of the answers.
        mask: True where the cache has a token rather than padding; (B, K).
        lengths: Tokens of each prompt, with those of a trained one; (B,).
        long: True if the cache was computed with LongRoPE's long factors.
    """

    answers: list[GreedyAnswer]
    cache: Any
    mask: Any
    lengths: Any
    long: bool = False

    def select(self, rows: Sequence[int]) -> StartedAnswers:
        """Return these of the answers, with a cache of their own."""
        indices, answers = list(rows), [self.answers[row] for row in rows]
        cache = select_rows(self.cache, indices)
        return StartedAnswers(answers, cache, self.mask[indices], self.lengths[indices], self.long)


class AnswerDecoder:
    """Collects started answers while their joined KV cache is small, and continues them to their ends.

    Args:
        generator: The model.
    """

    def __init__(self, generator: TransformersGenerator) -> None:
        self.generator = generator
        self._waiting: list[StartedAnswers] = []

    def add(self, started: StartedAnswers) -> None:
        """Add the unfinished ones of a batch, which `finish` continues; those that cannot be joined are continued now."""
        unfinished = [row for row, answer in enumerate(started.answers) if answer.finish is None]
        if not unfinished:
            return
        batch = started.select(unfinished) if len(unfinished) < len(started.answers) else started
        if not self._can_join([*self._waiting, batch]):
            self.finish()
        self._waiting.append(batch)
        if not self._can_join([batch]):
            self.finish()

    def _can_join(self, batches: Sequence[StartedAnswers]) -> bool:
        tokens = max(batch.mask.shape[1] for batch in batches)
        token_bytes = cache_bytes(batches[0].cache) / batches[0].mask.numel()
        return (
            token_bytes * tokens * sum(len(batch.answers) for batch in batches) <= _JOINED_BYTES
            and len({batch.long for batch in batches}) == 1
            and self._may_pad(batches)
        )

    def _may_pad(self, batches: Sequence[StartedAnswers]) -> bool:
        """Return True if tokens of the cache may be padding: a layer that forgets tokens counts it."""
        longest = max(batch.mask.shape[1] + answer.limit for batch in batches for answer in batch.answers)
        return self.generator.keeps_tokens(longest)

    def finish(self) -> None:
        """Continue all answers to their ends."""
        import torch
        from torch.nn.functional import pad

        batches, self._waiting = self._waiting, []
        if not batches:
            return
        answers = [answer for batch in batches for answer in batch.answers]
        width = max(len(answer.tokens) for answer in answers) if self._may_pad(batches) else 1
        tokens = max(batch.mask.shape[1] for batch in batches)
        mask = torch.cat([pad(batch.mask, (tokens - batch.mask.shape[1], 0)) for batch in batches])  # (B, K)
        lengths = torch.cat([batch.lengths for batch in batches])  # (B,)
        cache = join_rows([batch.cache for batch in batches])
        del batches
        done = [0] * len(answers)  # tokens of each answer in the cache
        while True:
            read = [answer.tokens[count : count + width] for answer, count in zip(answers, done, strict=True)]
            done = [count + len(ids) for count, ids in zip(done, read, strict=True)]
            counts = torch.tensor([[len(ids)] for ids in read], device=lengths.device)  # (B, 1)
            after = torch.arange(-width, 0, device=lengths.device) + counts  # (B, T); negative: padding
            mask = torch.cat([mask, after >= 0], dim=1)
            placed = {"attention_mask": mask.long(), "position_ids": (lengths[:, None] + after).clamp(min=0)}
            rows = [[self.generator.pad_id] * (width - len(ids)) + ids for ids in read]
            logits, cache = self.generator.forward(rows, cache, **({} if mask.all() else placed))
            for answer, count, token in zip(answers, done, logits[:, -1].argmax(-1).tolist(), strict=True):
                if count == len(answer.tokens):
                    answer.push(token)
            lengths, width = lengths + counts[:, 0], 1
            active = [row for row, answer in enumerate(answers) if answer.finish is None]
            if not active:
                return
            if len(active) < len(answers):
                answers, done = [answers[row] for row in active], [done[row] for row in active]
                mask, lengths, cache = mask[active], lengths[active], select_rows(cache, active)
