"""The interface that all kinds of models answer through."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from phi_runtime.core.errors import DataError, UsageError
from phi_runtime.core.suggestions import did_you_mean

Finish = Literal["stop", "length"]


class TooLong(DataError):
    """Prompt and answer do not fit into the context of the model."""


class BadGuide(UsageError):
    """A JSON schema or a regular expression that no answer can be guided by."""


class UnknownAdapter(UsageError):
    """There is no adapter of that name beside the model."""


@dataclass(frozen=True)
class Guide:
    """What an answer must look like: `text` is a JSON schema (in JSON), or a regular expression that the whole answer matches."""

    kind: Literal["json_schema", "regex"]
    text: str


@dataclass(frozen=True)
class Sampling:
    """How an answer is drawn.

    `temperature` 0 is greedy, and the same answer each time. `seed` makes a drawn answer repeatable. `top_k` 0 leaves all tokens in.
    The answer ends before the first text of `stop`. `logprobs` asks for the log-probability of each token, with so many of the
    likeliest beside it. The penalties are those of OpenAI: taken off the logit of each token that the answer holds already.
    """

    max_new_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    guide: Guide | None = None
    logprobs: int | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0


@dataclass(frozen=True)
class TokenLogprob:
    """A token of the answer: its text, its log-probability (nats), and the likeliest tokens at its place with theirs."""

    token: str
    logprob: float
    top: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class Piece:
    """The next part of an answer. `text` may be empty, while a letter or what may become a stop text is incomplete."""

    text: str
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass
class Usage:
    """Tokens of the prompt, how many of them were in the cache and not read again, and tokens of the answer."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0


class Answer(Iterator[Piece], Protocol):
    """An answer on its way. Each `next` is one step of the model, or the prompt at first; `close` ends it early, also between steps.

    Several answers of one generator may be on their way, each step taken in turn on one thread. `finish` is known at the end.
    """

    usage: Usage
    finish: Finish | None

    def close(self) -> None: ...


@dataclass(frozen=True)
class Speed:
    """Tokens a second of one sequence: reading a prompt, and writing an answer."""

    prefill_tokens_per_s: float
    decode_tokens_per_s: float


class Generator(Protocol):
    """A loaded model. Prompts are whole texts, rendered by the prompt template.

    `context_length` is in tokens; `adapters` are the names of those that can be asked for, `adapter` the one that answers where none
    is (None: the model without any); `guides` says whether answers can be guided.
    """

    @property
    def context_length(self) -> int: ...

    @property
    def adapter(self) -> str | None: ...

    @property
    def adapters(self) -> tuple[str, ...]: ...

    @property
    def guides(self) -> bool: ...

    def answer(self, prompt: str, sampling: Sampling, adapter: str | None = None) -> Answer:
        """The answer to `prompt`. What a conversation before left in the cache is used again where it begins in the same way.

        Raises TooLong, BadGuide and UnknownAdapter, all before the first piece.
        """
        ...

    def stream(self, prompt: str, sampling: Sampling) -> Iterator[str]:
        """The texts of the pieces of an answer."""
        ...

    def count(self, text: str, adapter: str | None = None) -> int:
        """Tokens of `text` as a prompt."""
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


def unknown_adapter(name: str, known: Sequence[str]) -> UnknownAdapter:
    """The error for an adapter that is not there."""
    there = f"there are {', '.join(known)}" if known else "this model has none beside it"
    return UnknownAdapter(f"there is no adapter `{name}`{did_you_mean(name, known)}", fix=there)


def short_answers(
    generator: Generator, prompts: Sequence[str], stop: str, max_new_tokens: int, batch_size: int
) -> list[str]:
    """Greedy answers up to `stop`, the text that ends one in the prompt template, without blanks around them."""
    stop = stop.strip()
    answers = generator.answers(prompts, max_new_tokens, batch_size)
    return [(answer.split(stop)[0] if stop else answer).strip() for answer in answers]
