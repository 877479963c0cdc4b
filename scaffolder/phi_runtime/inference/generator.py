"""The interface of all kinds of models for generating answers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from phi_runtime.core.errors import DataError, UsageError
from phi_runtime.core.suggestions import did_you_mean

if TYPE_CHECKING:
    from phi_runtime.data.chat_template import Template

FinishReason = Literal["stop", "length"]


class PromptTooLong(DataError):
    """Prompt and answer exceed the context length of the model."""


class InvalidGuide(UsageError):
    """A JSON schema or regular expression that cannot guide an answer."""


class UnknownAdapter(UsageError):
    """The model has no adapter of this name."""


@dataclass(frozen=True)
class Guide:
    """Constraint on the text of an answer.

    Attributes:
        kind: Kind of constraint.
        text: A JSON schema, as JSON; a regular expression that the complete answer matches; or a grammar in the Lark syntax of
            llguidance.
        tokens: Tokens that the grammar calls token_0, token_1, …
    """

    kind: Literal["json_schema", "regex", "lark"]
    text: str
    tokens: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Name of the kind that a user knows; grammars are made from JSON schemas."""
        return "regular expression" if self.kind == "regex" else "JSON schema"


@dataclass(frozen=True)
class SamplingParams:
    """Parameters of one answer, with the meaning that they have in OpenAI's API.

    Attributes:
        max_new_tokens: Length limit of the answer, in tokens.
        temperature: 0 is greedy, the same answer each time.
        top_p: Share of the probability to sample from, 0 to 1.
        top_k: Number of tokens to sample from; 0: all.
        seed: Seed of the samples; None: another answer each time.
        stop: Stop strings; the answer ends before the first.
        guide: Constraint on the text.
        logprobs: Return the log-probability of each token, and this many of the most likely tokens; None: none.
        presence_penalty: Subtracted from the logit of each token that the answer contains.
        frequency_penalty: Subtracted from the logit of each token, times its number of occurrences in the answer.
        suffix: Text of the prompt template after an answer; it is removed from the end of the finished answer.
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
    suffix: str = ""


@dataclass(frozen=True)
class TokenLogprob:
    """A token of the answer: its text, log-probability in nats, and the most likely tokens at its position with theirs."""

    token: str
    logprob: float
    top: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class Piece:
    """The next part of a streamed answer.

    `text` is empty while a character is incomplete, or while it may become a stop string.
    """

    text: str
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass
class Usage:
    """Tokens of the prompt, those of them that were in the KV cache, and tokens of the answer."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0


class Answer(Iterator[Piece], Protocol):
    """A streamed answer.

    Each `next` is one step of the model: a chunk of the prompt, then a token. Several answers of one generator may be
    streamed at the same time, in turn on one thread. `finish` is set at the end.
    """

    usage: Usage
    finish: FinishReason | None

    def close(self) -> None:
        """End the answer early, at any point between two steps."""
        ...


@dataclass(frozen=True)
class PromptTask:
    """Work on one prompt.

    Attributes:
        ids: Tokens of the prompt, at least one.
        completions: Token sequences whose log-probability after the prompt is measured.
        max_new_tokens: Length limit of a greedy answer; 0: no answer.
        stop: Stop strings, as in SamplingParams.
    """

    ids: list[int]
    completions: Sequence[list[int]] = ()
    max_new_tokens: int = 0
    stop: tuple[str, ...] = ()

    @property
    def longest_continuation(self) -> int:
        """Tokens that may follow the prompt."""
        return max(self.max_new_tokens, *map(len, self.completions), 0)


@dataclass(frozen=True)
class PromptResult:
    """The greedy answer to a prompt, and the log-probabilities (nats) of the tokens of each completion."""

    answer: str = ""
    finish: FinishReason | None = None
    logprobs: Sequence[Sequence[float]] = ()


@dataclass(frozen=True)
class Speed:
    """Speed of one answer: seconds until its first token, and tokens per second from there on."""

    time_to_first_token_s: float
    decode_tokens_per_s: float


@dataclass(frozen=True)
class GeneratorOptions:
    """Options of a loaded model.

    Attributes:
        add_special_tokens: Add the tokenizer's special tokens (BOS) to prompts; chat templates spell them out.
        special_tokens_by_adapter: Exceptions from `add_special_tokens`, by adapter.
        stop_tokens: Special tokens that end an answer, in addition to those of the model: those of the prompt template.
        conversations: Number of sequences whose KV cache is kept for their next turn; with 0, an answer of an ONNX model
            allocates no more memory than it needs.
        adapters: More adapters, by name: .onnx_adapter files for an ONNX model, in addition to those in its folder; peft
            folders for the others, each loaded when it is first used.
    """

    add_special_tokens: bool = True
    special_tokens_by_adapter: Mapping[str, bool] = field(default_factory=dict)
    stop_tokens: tuple[str, ...] = ()
    conversations: int = 0
    adapters: Mapping[str, Path] = field(default_factory=dict)

    def adds_special_tokens(self, adapter: str | None) -> bool:
        return self.special_tokens_by_adapter.get(adapter or "", self.add_special_tokens)


class Generator(Protocol):
    """A loaded model. Prompts are complete texts, rendered by the prompt template."""

    @property
    def context_length(self) -> int:
        """Tokens of prompt and answer together."""
        ...

    @property
    def adapter(self) -> str | None:
        """Adapter that is used where an answer names none; None: the model without an adapter."""
        ...

    @property
    def adapters(self) -> tuple[str, ...]:
        """Names of the adapters that an answer can use."""
        ...

    @property
    def guides(self) -> bool:
        """True if answers can be guided."""
        ...

    def answer(self, prompt: str, sampling: SamplingParams, adapter: str | None = None) -> Answer:
        """Start an answer. A prompt that continues an earlier conversation reuses its KV cache.

        Raises:
            PromptTooLong: Prompt and answer exceed the context.
            InvalidGuide: The model cannot follow the guide.
            UnknownAdapter: There is no such adapter. All of them before the first piece.
        """
        ...

    def count(self, text: str, adapter: str | None = None) -> int:
        """Return the number of tokens of `text` as a prompt."""
        ...

    def encode(self, prompt: str, adapter: str | None = None) -> list[int]:
        """Tokenize a prompt as in training."""
        ...

    def run_prompts(self, tasks: Sequence[PromptTask], batch_size: int) -> list[PromptResult]:
        """Return the results of prompt tasks, in their order; up to `batch_size` prompts are computed at once."""
        ...

    def speed(self, prompt_tokens: int, new_tokens: int) -> Speed:
        """Measure one answer of exactly `new_tokens`, at least 2, to a prompt of `prompt_tokens`."""
        ...


def unknown_adapter(name: str, available: Sequence[str]) -> UnknownAdapter:
    """Build the error for an adapter that does not exist."""
    fix = f"use one of {', '.join(available)}" if available else "omit it: this model has no adapters"
    return UnknownAdapter(f"unknown adapter `{name}`{did_you_mean(name, available)}", fix=fix)


def short_answers(
    generator: Generator, prompts: Sequence[str], template: Template, max_new_tokens: int, batch_size: int
) -> list[str]:
    """Return greedy answers, without the text that the prompt template has after them and surrounding white space."""
    tasks = [PromptTask(generator.encode(prompt), max_new_tokens=max_new_tokens) for prompt in prompts]
    return [template.answer_of(result.answer) for result in generator.run_prompts(tasks, batch_size)]
