"""How an answer comes about, token by token, whatever the model is."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from typing import TYPE_CHECKING

from phi_runtime.inference.generator import Finish, Piece, Sampling, TokenLogprob, TooLong, Usage
from phi_runtime.inference.sampler import Sampler, log_probabilities
from phi_runtime.inference.sequences import Cached, chunks
from phi_runtime.inference.stop_texts import StopTexts

if TYPE_CHECKING:
    import numpy as np

Decode = Callable[[int], str]
"""What a token adds to the text; nothing while a letter is incomplete."""


class Writer:
    """One answer on its way (see generator.Answer).

    `take()` gives the sequence to write into and how many tokens of `ids` it holds; `done(sequence, sound)` takes it back. Both are
    called on the thread that asks for the pieces.
    """

    def __init__(
        self,
        ids: Sequence[int],
        sampling: Sampling,
        ends: set[int],
        decode: Decode,
        token_text: Callable[[int], str],
        take: Callable[[], tuple[Cached, int]],
        done: Callable[[Cached, bool], None],
    ) -> None:
        self.usage = Usage(prompt_tokens=len(ids))
        self.finish: Finish | None = None
        self._ids, self._sampling, self._ends = ids, sampling, ends
        self._decode, self._token_text, self._take, self._done = decode, token_text, take, done
        self._pieces = self._write()

    def __iter__(self) -> Iterator[Piece]:
        return self

    def __next__(self) -> Piece:
        return next(self._pieces)

    def close(self) -> None:
        """Ends the answer; its sequence goes back."""
        self._pieces.close()

    def _write(self) -> Generator[Piece, None, None]:
        sequence, held = self._take()
        sound = False
        try:
            self.usage.cached_tokens = held
            sequence.prompt = len(self._ids)
            for chunk in chunks(self._ids[held:]):
                sequence.extend(chunk)
                yield Piece("")
            yield from self._tokens(sequence)
            sound = True
        except GeneratorExit:
            sound = True  # between two steps
            raise
        finally:
            self._done(sequence, sound)

    def _tokens(self, sequence: Cached) -> Iterator[Piece]:
        sampler, stop = Sampler(self._sampling), StopTexts(self._sampling.stop)
        while self.usage.completion_tokens < self._sampling.max_new_tokens:
            token, logprobs = self._next(sequence, sampler)
            self.usage.completion_tokens += 1
            if token in self._ends:
                self.finish = "stop"
                break
            text = stop.push(self._decode(token))
            if stop.met:
                self.finish = "stop"
                yield Piece(text, logprobs)
                return
            yield Piece(text, logprobs)
        else:
            self.finish = "length"
        if rest := stop.rest():
            yield Piece(rest)

    def _next(self, sequence: Cached, sampler: Sampler) -> tuple[int, tuple[TokenLogprob, ...]]:
        """The next token, written into the sequence, and what was asked for of its log-probability."""
        likeliest = sampler.takes_the_likeliest or self._sampling.guide is not None
        wanted = self._sampling.logprobs
        logits = sequence.logits() if wanted is not None or not likeliest else None
        if likeliest:
            penalised = sampler.penalised(sequence.logits()) if sampler.penalises else None
            token = sequence.step(penalised)
        else:
            assert logits is not None
            token = sampler.choose(logits)
            sequence.append(token)
        sampler.said[token] += 1
        if wanted is None or token in self._ends:
            return token, ()
        assert logits is not None
        return token, (self._logprob(token, logits, wanted),)

    def _logprob(self, token: int, logits: np.ndarray, wanted: int) -> TokenLogprob:
        chances = log_probabilities(logits)
        top = chances.argsort()[::-1][:wanted] if wanted else ()
        listed = tuple((self._token_text(int(other)), float(chances[other])) for other in top)
        return TokenLogprob(self._token_text(token), float(chances[token]), listed)


def check_length(prompt_tokens: int, sampling: Sampling, context_length: int) -> None:
    """Raises TooLong where prompt and answer exceed the context, in tokens."""
    if not prompt_tokens:
        raise TooLong("the prompt has no token", fix="write something to answer to")
    if prompt_tokens + sampling.max_new_tokens > context_length:
        raise TooLong(
            f"prompt ({prompt_tokens} tokens) and answer ({sampling.max_new_tokens}) exceed the context of {context_length}",
            fix="shorten the prompt or lower --max-new-tokens",
        )
