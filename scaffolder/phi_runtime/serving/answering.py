"""The response to one request: receives the parts from the worker and sends them as one body or as a stream.

It ends early when the client disconnects or the time limit is reached; the worker then cancels the answers.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from starlette.responses import Response

from phi_runtime.core.errors import PhiError
from phi_runtime.core.events import Emit, Event
from phi_runtime.serving.bodies import AnswerChoice, BodyWriter, dumps, error_event
from phi_runtime.serving.engine import Engine
from phi_runtime.serving.errors import ApiError, from_worker
from phi_runtime.serving.guide_check import Failure
from phi_runtime.serving.tool_calls import Delta
from phi_runtime.serving.tools import Tools
from phi_runtime.serving.wire import GenerationRequest, Part

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

DISCONNECTED: Part = {"disconnected": True}
_LAST = {"type": "http.response.body", "body": b"data: [DONE]\n\n"}


class AdmissionQueue:
    """Admits up to `capacity` requests at a time, running and waiting ones together.

    Attributes:
        active: Requests that were admitted and have not ended.
        counts: Counters, as for `prometheus_text`.
    """

    def __init__(self, engine: Engine, capacity: int, timeout_s: float, emit: Emit) -> None:
        self.engine, self.capacity, self.timeout_s, self.emit = engine, capacity, timeout_s, emit
        self.active = 0
        self.counts: defaultdict[str, float] = defaultdict(int)

    def check_ready(self) -> None:
        """Raise ApiError while the models are loading or the server is stopping."""
        if self.engine.state != "ready":
            what = "is stopping" if self.engine.state == "stopping" else "is loading its models"
            raise ApiError(503, f"the server {what}", code=self.engine.state, headers={"Retry-After": "5"})

    def admit(self) -> None:
        """Raise ApiError if the queue is full; Retry-After is the mean duration of a request."""
        self.check_ready()
        if self.active >= self.capacity:
            count = self.counts["request_seconds_count"]
            mean_s = self.counts["request_seconds_sum"] / count if count else 1
            self.counts["refused_total"] += 1
            headers = {"Retry-After": str(min(max(round(mean_s), 1), 30))}
            raise ApiError(429, f"the queue is full: {self.active} requests", code="queue_full", headers=headers)


class Reply(Response):
    """The response to one request.

    Args:
        queue: Admits it.
        writer: Writes its bodies.
        requests: The generation request of each choice.
        fields: Names of the request fields that errors of the worker are about: the input, and the guide.
        stream, with_usage: As in the body of the request.
        tools: The tools that answers may call.
        check_guide: Compiles the guide of the answers.
    """

    def __init__(
        self,
        queue: AdmissionQueue,
        writer: BodyWriter,
        requests: Sequence[GenerationRequest],
        fields: tuple[str, str],
        *,
        stream: bool,
        with_usage: bool,
        tools: Tools | None = None,
        check_guide: Callable[[], Awaitable[Failure | None]] | None = None,
    ) -> None:
        self.queue, self.writer, self.requests, self.fields = queue, writer, requests, fields
        self.stream, self.with_usage, self.check_guide = stream, with_usage, check_guide
        self.choices = [AnswerChoice(tools.parser() if tools else None) for _ in requests]
        self.background = None
        self.started_s = time.monotonic()
        self.status = 200
        self._parts: asyncio.Queue[Part] = asyncio.Queue()
        self._index: dict[int, int] = {}  # id of the generation request → index of the choice
        self._started = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        queue = self.queue
        queue.admit()
        queue.active += 1
        disconnect = asyncio.create_task(self._watch_disconnect(receive))
        try:
            async with asyncio.timeout(queue.timeout_s):
                if self.check_guide:
                    await self._check_guide(self.check_guide(), disconnect)
                for index, request in enumerate(self.requests):
                    self._index[queue.engine.submit(request, self._parts.put_nowait)] = index
                await (self._send_stream(send) if self.stream else self._send_body(send))
        except _ClientDisconnected:
            self.status = 499
        except TimeoutError:
            headers = {"X-Should-Retry": "false"}  # the openai client retries timeouts by default
            message = f"the answer took longer than {queue.timeout_s:g} s"
            await self._fail(send, ApiError(504, message, code="timeout", headers=headers))
        except ApiError as e:
            await self._fail(send, e)
        finally:
            queue.active -= 1
            disconnect.cancel()
            for number in self._index:
                queue.engine.cancel(number)
            self._count()

    async def _check_guide(self, check: Awaitable[Failure | None], disconnect: asyncio.Task[None]) -> None:
        """Wait until the guide was compiled in its own process. Raises ApiError, _ClientDisconnected."""
        checking = asyncio.ensure_future(check)
        try:
            await asyncio.wait({checking, disconnect}, return_when=asyncio.FIRST_COMPLETED)
            if not checking.done():
                raise _ClientDisconnected
            if failure := checking.result():
                raise from_worker(failure, *self.fields)
        except PhiError as e:
            raise ApiError(500, e.what, code="internal_error") from None
        finally:
            checking.cancel()
        self.queue.check_ready()  # it may have changed meanwhile

    async def _watch_disconnect(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._parts.put_nowait(DISCONNECTED)

    # -- parts ---------------------------------------------------------------------------------------------------------

    async def _next(self) -> tuple[int, list[Delta], Any]:
        """Return the index of a choice with its new text and log-probabilities. Raises ApiError, _ClientDisconnected."""
        part = await self._parts.get()
        if part is DISCONNECTED:
            raise _ClientDisconnected
        if "failure" in part:
            raise from_worker(part["failure"], *self.fields)
        index = self._index[part["id"]]
        choice = self.choices[index]
        logprobs = part.get("logprobs")
        parser = choice.parser
        deltas: list[Delta] = parser.push(part["text"]) if parser else [part["text"]]
        if "finish" in part:
            deltas += parser.finish() if parser else []
            called = parser is not None and parser.count > 0 and part["finish"] == "stop"
            choice.finish, choice.usage = "tool_calls" if called else part["finish"], part["usage"]
        if not self.stream:
            choice.add(deltas)
            choice.logprobs = logprobs
        return index, deltas, logprobs

    @property
    def _done(self) -> bool:
        return all(choice.finish for choice in self.choices)

    async def _send_body(self, send: Send) -> None:
        while not self._done:
            await self._next()
        body = dumps(self.writer.body(self.choices)).encode()
        await _start(send, b"application/json", len(body))
        await send({"type": "http.response.body", "body": body})

    async def _send_stream(self, send: Send) -> None:
        started: set[int] = set()
        while not self._done:
            index, deltas, logprobs = await self._next()
            events = []
            if index not in started:
                started.add(index)
                events.append(self.writer.first(index))
            text = "".join(delta for delta in deltas if isinstance(delta, str))
            if text or logprobs:
                events.append(self.writer.part(index, text, logprobs))
            events += [self.writer.call(index, delta) for delta in deltas if not isinstance(delta, str)]
            if finish := self.choices[index].finish:
                events.append(self.writer.end(index, finish))
            await self._write(send, "".join(events))
        if self.with_usage:
            await self._write(send, self.writer.usage(self.choices))
        await send(_LAST)

    async def _fail(self, send: Send, error: ApiError) -> None:
        """Send `error` as an event if a stream has started; raise it otherwise."""
        self.status = error.status
        if not self._started:
            raise error from None
        with suppress(TimeoutError):
            async with asyncio.timeout(5):
                await self._write(send, error_event(error.body()))
                await send(_LAST)

    async def _write(self, send: Send, events: str) -> None:
        if not self._started:
            self._started = True
            self.queue.counts["first_token_seconds_sum"] += time.monotonic() - self.started_s
            self.queue.counts["first_token_seconds_count"] += 1
            await _start(send, b"text/event-stream; charset=utf-8", None)
        await send({"type": "http.response.body", "body": events.encode(), "more_body": True})

    # -- metrics -------------------------------------------------------------------------------------------------------

    def _count(self) -> None:
        counts, seconds = self.queue.counts, time.monotonic() - self.started_s
        usages = [choice.usage for choice in self.choices if choice.usage]
        tokens = {
            name: sum(usage[name] for usage in usages)
            for name in ("prompt_tokens", "cached_tokens", "completion_tokens")
        }
        counts[f'requests_total{{status="{self.status}"}}'] += 1
        counts["prompt_tokens_total"] += tokens["prompt_tokens"]
        counts["cached_prompt_tokens_total"] += tokens["cached_tokens"]
        counts["completion_tokens_total"] += tokens["completion_tokens"]
        counts["request_seconds_sum"] += seconds
        counts["request_seconds_count"] += 1
        facts = {"status": self.status, "model": self.writer.model, "wall_s": round(seconds, 3), **tokens}
        self.queue.emit(Event("metric", "serve", facts))


class _ClientDisconnected(Exception):
    pass


async def _start(send: Send, content_type: bytes, length: int | None) -> None:
    headers = [(b"content-type", content_type), (b"cache-control", b"no-store")]
    if length is not None:
        headers.append((b"content-length", str(length).encode()))
    else:
        headers.append((b"x-accel-buffering", b"no"))  # nginx and the like must not buffer events
    await send({"type": "http.response.start", "status": 200, "headers": headers})
