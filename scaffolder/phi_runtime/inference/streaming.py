"""The generation loop of one answer, token by token, and what else the generators of all kinds of models have in common."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from phi_runtime.core.errors import DataError
from phi_runtime.data.tokenize import prompt_ids
from phi_runtime.inference.detokenizer import Detokenizer, detokenizer
from phi_runtime.inference.generator import (
    FinishReason,
    GeneratorOptions,
    Piece,
    PromptTooLong,
    SamplingParams,
    Speed,
    TokenLogprob,
    Usage,
)
from phi_runtime.inference.sampler import Sampler, log_softmax
from phi_runtime.inference.sequences import CachedSequence, SequenceCache, prompt_chunks, read_prompt
from phi_runtime.inference.stop_strings import StopStrings, Suffix

if TYPE_CHECKING:
    import numpy as np


class StreamedAnswer:
    """One answer in progress; see generator.Answer.

    Args:
        ids: Tokens of the prompt.
        sampling: Parameters.
        stop_ids: Tokens that end an answer.
        detokenizer: Incremental detokenizer of this answer.
        token_text: Returns the text of a single token, for log-probabilities.
        acquire: Returns the sequence to write into, and the number of tokens of `ids` that it holds.
        release: Returns the sequence; its second argument is False if a step failed. Both are called on the thread that
            iterates over the pieces.
    """

    def __init__(
        self,
        ids: Sequence[int],
        sampling: SamplingParams,
        stop_ids: set[int],
        detokenizer: Detokenizer,
        token_text: Callable[[int], str],
        acquire: Callable[[], tuple[CachedSequence, int]],
        release: Callable[[CachedSequence, bool], None],
    ) -> None:
        self.usage = Usage(prompt_tokens=len(ids))
        self.finish: FinishReason | None = None
        self._ids, self._sampling, self._stop_ids = ids, sampling, stop_ids
        self._detokenizer, self._token_text, self._acquire, self._release = detokenizer, token_text, acquire, release
        self._pieces = self._generate()

    def __iter__(self) -> Iterator[Piece]:
        return self

    def __next__(self) -> Piece:
        return next(self._pieces)

    def close(self) -> None:
        """End the answer and release its sequence."""
        self._pieces.close()

    def _generate(self) -> Generator[Piece, None, None]:
        sequence, cached = self._acquire()
        reusable = False
        try:
            self.usage.cached_tokens = cached
            sequence.prompt_length = len(self._ids)
            for chunk in prompt_chunks(sequence, self._ids[cached:]):
                sequence.prefill(chunk)
                yield Piece("")
            yield from self._decode(sequence)
            reusable = True
        except GeneratorExit:
            reusable = True  # closed between two steps
            raise
        finally:
            self._release(sequence, reusable)

    def _decode(self, sequence: CachedSequence) -> Iterator[Piece]:
        sampler, stop = Sampler(self._sampling), StopStrings(self._sampling.stop)
        suffix = Suffix(self._sampling.suffix)
        while self.usage.completion_tokens < self._sampling.max_new_tokens:
            token, logprobs = self._next_token(sequence, sampler)
            self.usage.completion_tokens += 1
            if token in self._stop_ids:
                self.finish = "stop"
                break
            yield Piece(suffix.push(stop.push(self._detokenizer.push(token))), logprobs)
            if stop.matched:
                self.finish = "stop"
                break
        else:
            self.finish = "length"
        remaining = "" if stop.matched else stop.push(self._detokenizer.flush())
        if stop.matched:
            self.finish = "stop"
        if remaining := suffix.push(remaining + stop.flush()) + suffix.flush():
            yield Piece(remaining)

    def _next_token(self, sequence: CachedSequence, sampler: Sampler) -> tuple[int, tuple[TokenLogprob, ...]]:
        """Append the next token to the sequence, and return it with the requested log-probabilities."""
        chosen_by_model = sampler.is_greedy or self._sampling.guide is not None
        top_count = self._sampling.logprobs
        logits = sequence.logits() if top_count is not None or not chosen_by_model else None  # (V,)
        if chosen_by_model:
            penalized = sampler.apply_penalties(sequence.logits()) if sampler.has_penalties else None
            token = sequence.step(penalized)
        else:
            assert logits is not None
            token = sampler.sample(logits)
            sequence.append(token)
        sampler.counts[token] += 1
        if top_count is None or token in self._stop_ids:
            return token, ()
        assert logits is not None
        return token, (self._logprob(token, logits, top_count),)

    def _logprob(self, token: int, logits: np.ndarray, top_count: int) -> TokenLogprob:
        logprobs = log_softmax(logits)  # (V,)
        top = logprobs.argsort()[::-1][:top_count] if top_count else ()
        listed = tuple((self._token_text(int(other)), float(logprobs[other])) for other in top)
        return TokenLogprob(self._token_text(token), float(logprobs[token]), listed)


class CachedGenerator(ABC):
    """Base of generators that keep sequences for the next turn of a conversation.

    Args:
        tokenizer: Tokenizer of the model.
        options: Options of the model.
        create: Creates a sequence for a capacity in tokens and an adapter.

    Attributes:
        stop_ids: Tokens that end an answer.
    """

    stop_ids: set[int]

    def __init__(
        self, tokenizer: Any, options: GeneratorOptions | None, create: Callable[[int, str | None], CachedSequence]
    ) -> None:
        self.tokenizer, self.options = tokenizer, options or GeneratorOptions()
        self._sequences = SequenceCache(self.options.conversations, create)

    def count(self, text: str, adapter: str | None = None) -> int:
        return len(self.encode(text, adapter))

    def encode(self, prompt: str, adapter: str | None = None) -> list[int]:
        """Tokenize a prompt as in training."""
        special = self.options.adds_special_tokens(adapter)
        return [int(token) for token in prompt_ids(self.tokenizer, prompt, special=special)]

    def token_text(self, token: int) -> str:
        return str(self.tokenizer.decode([token]))

    def _stream(
        self, ids: list[int], sampling: SamplingParams, sequences: SequenceCache, capacity: int, adapter: str | None
    ) -> StreamedAnswer:
        """Return the answer to the prompt `ids`, in a sequence of `sequences` for `capacity` tokens."""
        return StreamedAnswer(
            ids,
            sampling,
            self.stop_ids,
            detokenizer(self.tokenizer),
            self.token_text,
            lambda: sequences.acquire(ids, capacity, adapter),
            sequences.release,
        )

    @abstractmethod
    def _measured_sequence(self, tokens: int) -> CachedSequence:
        """Return a new sequence that has `tokens` tokens before it ends."""

    def speed(self, prompt_tokens: int, new_tokens: int) -> Speed:
        """Measure one answer, in the steps of any other; see Generator.speed."""
        text = self.encode("The weather was fine and we went for a walk. ")
        ids = (text * (prompt_tokens // len(text) + 1))[:prompt_tokens]
        sequence = self._measured_sequence(prompt_tokens + new_tokens)
        start = time.perf_counter()
        read_prompt(sequence, ids)
        sequence.step()
        first_token = time.perf_counter()
        for _ in range(new_tokens - 1):
            sequence.step()
        return Speed(first_token - start, (new_tokens - 1) / (time.perf_counter() - first_token))


def check_context_length(prompt_tokens: int, sampling: SamplingParams, context_length: int) -> None:
    """Check that prompt and answer fit.

    Raises:
        PromptTooLong: They exceed `context_length` tokens.
        DataError: The prompt is empty.
    """
    if not prompt_tokens:
        raise DataError("the prompt is empty", fix="enter a prompt")
    if prompt_tokens + sampling.max_new_tokens > context_length:
        raise PromptTooLong(
            f"prompt ({prompt_tokens} tokens) and answer ({sampling.max_new_tokens}) exceed the context of {context_length}",
            fix="shorten the prompt or lower --max-new-tokens",
        )
