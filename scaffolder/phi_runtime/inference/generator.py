"""The interface that all kinds of models answer through."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Sampling:
    """How an answer is drawn. `temperature` 0 is greedy; `seed` makes a drawn answer repeatable."""

    max_new_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None


@dataclass(frozen=True)
class Speed:
    """Tokens a second of one sequence: reading a prompt, and writing an answer."""

    prefill_tokens_per_s: float
    decode_tokens_per_s: float


class Generator(Protocol):
    """A loaded model. Prompts are whole texts, rendered by the prompt template."""

    def stream(self, prompt: str, sampling: Sampling) -> Iterator[str]:
        """Pieces of the answer as they come, without end tokens."""
        ...

    def answers(self, prompts: Sequence[str], max_new_tokens: int, batch_size: int) -> Iterator[str]:
        """Greedy answers, in the order of the prompts."""
        ...

    def completion_loss(self, prompt_ids: Sequence[int], completion_ids: Sequence[int]) -> float:
        """Sum of the negative log-probabilities (nats) of the completion's tokens after the prompt."""
        ...

    def speed(self, prompt_tokens: int, new_tokens: int) -> Speed:
        """Measures a prompt of `prompt_tokens` and an answer of exactly `new_tokens`; the median of three, after a warm-up."""
        ...


def short_answers(
    generator: Generator, prompts: Sequence[str], stop: str, max_new_tokens: int, batch_size: int
) -> list[str]:
    """Greedy answers up to `stop`, the text that ends one in the prompt template, without blanks around them."""
    stop = stop.strip()
    answers = generator.answers(prompts, max_new_tokens, batch_size)
    return [(answer.split(stop)[0] if stop else answer).strip() for answer in answers]
