"""Generate the active answers in turn, one step each, on one thread: no request waits for another's whole answer.

Steps are not batched: a batch computes in another order, so an answer would depend on concurrent requests, and the runtime
masks padding by token id (bench/serve.py measures what batching would gain).
"""

from __future__ import annotations

import sys
import time
import traceback
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace

from phi_runtime.core.errors import PhiError, first_line
from phi_runtime.core.wire import from_json
from phi_runtime.inference.generator import Answer, Generator, Piece, PromptTooLong, SamplingParams, TokenLogprob
from phi_runtime.serving.wire import GenerationRequest, Part
from phi_runtime.workers.child import Message

FLUSH_S = 0.025
"""Text that is generated within this time is sent together: each message takes time that the model's threads lack."""


@dataclass
class ActiveAnswer:
    """An answer that is being generated, and its text and log-probabilities that were not sent yet."""

    request: GenerationRequest
    answer: Answer
    sent_s: float = 0.0  # time.monotonic of the last part; 0 before the first
    text: list[str] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)

    def add(self, piece: Piece) -> None:
        if piece.text:
            self.text.append(piece.text)
        self.logprobs += piece.logprobs

    def is_due(self) -> bool:
        """Return True if a part should be sent: the first at once, later ones every FLUSH_S."""
        return bool(self.text or self.logprobs) and time.monotonic() - self.sent_s >= FLUSH_S

    def take_part(self) -> Part:
        """Return what was not sent yet, as sent from now on."""
        part: Part = {"id": self.request.id, "text": "".join(self.text)}
        if self.logprobs:
            part["logprobs"] = [[token.token, token.logprob, token.top] for token in self.logprobs]
        self.text, self.logprobs, self.sent_s = [], [], time.monotonic()
        return part


Render = Callable[[GenerationRequest], tuple[str, SamplingParams]]
"""Returns the prompt and the sampling of a request. Raises PhiError."""


class Scheduler:
    """Runs up to `parallel` answers at a time; the others wait in order of arrival.

    Args:
        models: The generators by name.
        render: Makes the prompt of a request.
        send: Receives the parts of the answers.
        parallel: Answers that are active at the same time.
    """

    def __init__(
        self, models: Mapping[str, Generator], render: Render, send: Callable[[Part], None], parallel: int
    ) -> None:
        self.models, self.render, self.send, self.parallel = models, render, send, parallel
        self.waiting: deque[GenerationRequest] = deque()
        self.active: list[ActiveAnswer] = []

    @property
    def busy(self) -> bool:
        return bool(self.active or self.waiting)

    def handle(self, message: Message) -> None:
        """Handle one message of the HTTP process."""
        if "generate" in message:
            self.waiting.append(from_json(GenerationRequest, message["generate"]))
        elif "cancel" in message:
            self.cancel(message["cancel"])

    def cancel(self, number: int) -> None:
        """Drop the request with this id, waiting or active; no part of it is sent any more."""
        self.waiting = deque(request for request in self.waiting if request.id != number)
        for active in [active for active in self.active if active.request.id == number]:
            self.active.remove(active)
            active.answer.close()

    def turn(self) -> None:
        """Fill the free places with waiting requests, then do one step of each active answer."""
        while self.waiting and len(self.active) < self.parallel:
            request = self.waiting.popleft()
            try:
                self.active.append(ActiveAnswer(request, self._begin(request)))
            except Exception as e:
                self._fail(request, e)
        for active in list(self.active):
            try:
                self._step(active)
            except Exception as e:
                self.active.remove(active)
                active.answer.close()
                self._fail(active.request, e)

    def _begin(self, request: GenerationRequest) -> Answer:
        generator = self.models[request.model]
        prompt, sampling = self.render(request)
        try:
            return generator.answer(prompt, sampling, request.adapter)
        except PromptTooLong:
            # max_tokens beyond the context is cut to what remains; a prompt that leaves nothing is an error.
            room = generator.context_length - generator.count(prompt, request.adapter)
            if not 0 < room < sampling.max_new_tokens:
                raise
            return generator.answer(prompt, replace(sampling, max_new_tokens=room), request.adapter)

    def _step(self, active: ActiveAnswer) -> None:
        piece = next(active.answer, None)
        if piece is None:
            self.active.remove(active)
            end = {"finish": active.answer.finish, "usage": asdict(active.answer.usage)}
            self.send(active.take_part() | end)
            return
        active.add(piece)
        if active.request.stream and active.is_due():
            self.send(active.take_part())

    def _fail(self, request: GenerationRequest, error: Exception) -> None:
        """Send the failure of a request. A fault that is not the client's is also printed, for the operator."""
        if isinstance(error, PhiError):
            failure = {"kind": type(error).__name__, "message": error.what, "fix": error.fix}
        else:
            failure = {"kind": "", "message": first_line(f"{type(error).__name__}: {error}"), "fix": ""}
            traceback.print_exception(error, file=sys.stderr)
        self.send({"id": request.id, "failure": failure})
