"""Takes the active answers in turn, a step each, on one thread: nobody waits for another's whole answer.

Steps are not batched: a batch computes in another order, so an answer would depend on who else asks, and the runtime masks padding by
token id (bench/serve.py measures what a batch would bring).
"""

from __future__ import annotations

import sys
import time
import traceback
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from phi_runtime.core.errors import PhiError
from phi_runtime.inference.generator import Answer, Generator, Piece, PromptTooLong, SamplingParams, TokenLogprob
from phi_runtime.serving.wire import Ask, Part

FLUSH_S = 0.025
"""What comes faster than this is told together: each message costs both processes time that the model's threads lack."""


@dataclass
class Active:
    """An answer on its way, and what of it was not told yet."""

    ask: Ask
    answer: Answer
    told_s: float = 0.0  # time.monotonic of the last telling; 0 before the first
    text: list[str] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)

    def add(self, piece: Piece) -> None:
        if piece.text:
            self.text.append(piece.text)
        self.logprobs += piece.logprobs

    def is_due(self) -> bool:
        """Whether it is time to tell: at once the first time, then after FLUSH_S."""
        return bool(self.text or self.logprobs) and time.monotonic() - self.told_s >= FLUSH_S

    def part(self) -> Part:
        """What was not told yet; it counts as told."""
        part: Part = {"id": self.ask.id, "text": "".join(self.text)}
        if self.logprobs:
            part["logprobs"] = [[each.token, each.logprob, each.top] for each in self.logprobs]
        self.text, self.logprobs, self.told_s = [], [], time.monotonic()
        return part


Render = Callable[[Ask], tuple[str, SamplingParams]]
"""The prompt of what is asked, and how its answer is drawn. Raises PhiError, or ValueError where a template refuses the messages."""


class Scheduler:
    """`models` are the generators by name, `tell` gets the parts of the answers; `parallel` answers are active at once, and the rest
    wait in the order in which they came."""

    def __init__(
        self, models: Mapping[str, Generator], render: Render, tell: Callable[[Part], None], parallel: int
    ) -> None:
        self.models, self.render, self.tell, self.parallel = models, render, tell, parallel
        self.waiting: deque[Ask] = deque()
        self.active: list[Active] = []

    @property
    def busy(self) -> bool:
        return bool(self.active or self.waiting)

    def hear(self, message: dict[str, Any]) -> None:
        """Takes what the HTTP side says."""
        if "ask" in message:
            self.waiting.append(Ask.from_dict(message["ask"]))
        elif "cancel" in message:
            self.cancel(message["cancel"])

    def cancel(self, number: int) -> None:
        """Forgets the answer of this id, wherever it is; nothing more is told of it."""
        self.waiting = deque(ask for ask in self.waiting if ask.id != number)
        for active in [active for active in self.active if active.ask.id == number]:
            self.active.remove(active)
            active.answer.close()

    def turn(self) -> None:
        """One step of each active answer, after those that wait have taken the free places."""
        while self.waiting and len(self.active) < self.parallel:
            ask = self.waiting.popleft()
            try:
                self.active.append(Active(ask, self._begin(ask)))
            except Exception as e:
                self._fail(ask, e)
        for active in list(self.active):
            try:
                self._step(active)
            except Exception as e:
                self.active.remove(active)
                active.answer.close()
                self._fail(active.ask, e)

    def _begin(self, ask: Ask) -> Answer:
        generator = self.models[ask.model]
        prompt, sampling = self.render(ask)
        try:
            return generator.answer(prompt, sampling, ask.adapter)
        except PromptTooLong:
            # An answer that may be as long as there is room is no fault; a prompt that leaves none is.
            room = generator.context_length - generator.count(prompt, ask.adapter)
            if not 0 < room < sampling.max_new_tokens:
                raise
            return generator.answer(prompt, replace(sampling, max_new_tokens=room), ask.adapter)

    def _step(self, active: Active) -> None:
        piece = next(active.answer, None)
        if piece is None:
            self.active.remove(active)
            end = {"finish": active.answer.finish, "usage": asdict(active.answer.usage)}
            self.tell(active.part() | end)
            return
        active.add(piece)
        if active.ask.stream and active.is_due():
            self.tell(active.part())

    def _fail(self, ask: Ask, error: Exception) -> None:
        """Tells of a fault. What is not the asker's is printed too: it is for whoever runs the server."""
        if isinstance(error, PhiError):
            told = {"kind": type(error).__name__, "message": error.what, "fix": error.fix}
        elif isinstance(error, ValueError):  # a template that refuses the messages
            told = {"kind": "ValueError", "message": str(error), "fix": ""}
        else:
            told = {"kind": "", "message": f"{type(error).__name__}: {error}", "fix": ""}
            told["message"] = told["message"].splitlines()[0]
            traceback.print_exception(error, file=sys.stderr)
        self.tell({"id": ask.id, "error": told})
