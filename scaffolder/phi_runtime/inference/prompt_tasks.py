"""Answers to prompts and log-probabilities of completions: each prompt is read once for all of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from phi_runtime.inference.detokenizer import detokenizer
from phi_runtime.inference.generator import FinishReason, PromptResult, PromptTask
from phi_runtime.inference.sampler import log_softmax
from phi_runtime.inference.sequences import CachedSequence, read_prompt

Path = tuple[int, ...]
"""Tokens after a prompt."""


class GreedyAnswer:
    """A greedy answer in progress.

    Attributes:
        text: The answer so far, without special tokens.
        finish: Reason for the end; None before it.
    """

    def __init__(self, task: PromptTask, stop_ids: set[int], tokenizer: Any) -> None:
        self._task, self._stop_ids, self._detokenizer = task, stop_ids, detokenizer(tokenizer)
        self.tokens: list[int] = []
        self.text = ""
        self.finish: FinishReason | None = None if task.max_new_tokens else "length"

    @property
    def limit(self) -> int:
        """Most tokens of the answer."""
        return self._task.max_new_tokens

    def push(self, token: int) -> None:
        """Add the next token."""
        if token in self._stop_ids:
            self.finish = "stop"
        else:
            self.tokens.append(token)
            self.text += self._detokenizer.push(token)
            if len(self.tokens) == self._task.max_new_tokens:
                self.finish = "length"
        if self.finish:
            self.text += self._detokenizer.flush()
        for stop in self._task.stop:
            if stop in self.text:
                self.text, self.finish = self.text.split(stop)[0], "stop"

    def result(self, logprobs: Sequence[Sequence[float]]) -> PromptResult:
        if not self._task.max_new_tokens:
            return PromptResult(logprobs=logprobs)
        return PromptResult(self.text, self.finish, logprobs)


def run_alone(sequence: CachedSequence, task: PromptTask, stop_ids: set[int], tokenizer: Any) -> PromptResult:
    """Run a task on a sequence, token by token.

    Args:
        sequence: Any sequence; what it holds of the prompt is reused.
        task: The task.
        stop_ids: Tokens that end an answer.
        tokenizer: Tokenizer of the model.
    """
    read_prompt(sequence, task.ids)
    length = len(task.ids)
    requested: dict[Path, set[int]] = {}
    for completion in task.completions:
        for position, token in enumerate(completion):
            requested.setdefault(tuple(completion[:position]), set()).add(token)
    known: dict[tuple[Path, int], float] = {}  # log-probabilities

    def record(path: Path) -> None:
        if tokens := requested.pop(path, None):
            logprobs = log_softmax(sequence.logits())  # (V,)
            known.update({(path, token): float(logprobs[token]) for token in tokens})

    record(())
    answer = GreedyAnswer(task, stop_ids, tokenizer)
    while answer.finish is None:
        answer.push(sequence.step())
        if answer.finish is None:
            record(tuple(answer.tokens))
    for path in list(requested):
        _write(sequence, length, path)
        record(path)
    return answer.result(
        [[known[tuple(completion[:i]), token] for i, token in enumerate(completion)] for completion in task.completions]
    )


def _write(sequence: CachedSequence, length: int, path: Path) -> None:
    """Let `path` follow the first `length` tokens of a sequence."""
    written = tuple(sequence.ids[length:])
    if path[: len(written)] != written:
        sequence.rewind(length)
        written = ()
    for token in path[len(written) :]:
        sequence.append(token)
