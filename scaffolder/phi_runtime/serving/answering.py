"""Answers a request: hears what the worker tells of it, and passes it on, whole or as a stream.

It ends early when the client goes away or the time is over; the worker is told, and the place is free.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

from starlette.responses import Response

from phi_runtime.core.events import Emit, Event
from phi_runtime.serving.bodies import Choice, Form, error_event
from phi_runtime.serving.engine import Engine
from phi_runtime.serving.errors import ApiError, from_worker
from phi_runtime.serving.metrics import Metrics
from phi_runtime.serving.wire import Ask, Part

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

GONE: Part = {"gone": True}
_LAST = {"type": "http.response.body", "body": b"data: [DONE]\n\n"}


class Desk:
    """Takes requests in, up to `most` at once (those that wait included), and keeps count."""

    def __init__(self, engine: Engine, metrics: Metrics, most: int, timeout_s: float, emit: Emit) -> None:
        self.engine, self.metrics, self.most, self.timeout_s, self.emit = engine, metrics, most, timeout_s, emit
        self.taken = 0

    def check_ready(self) -> None:
        """Raises ApiError while there is nothing to ask."""
        if self.engine.state != "ready":
            what = "is stopping" if self.engine.state == "stopping" else "is loading its models"
            raise ApiError(503, f"the server {what}", code=self.engine.state, headers={"Retry-After": "5"})

    def admit(self) -> None:
        """Raises ApiError when there is no place."""
        self.check_ready()
        if self.taken >= self.most:
            count = self.metrics.total("request_seconds_count")
            usual_s = self.metrics.total("request_seconds_sum") / count if count else 1
            self.metrics.add("refused_total")
            headers = {"Retry-After": str(min(max(round(usual_s), 1), 30))}
            raise ApiError(429, f"{self.taken} requests wait already", code="queue_full", headers=headers)


class Fields(NamedTuple):
    """The fields of a request that an error of the worker is about."""

    text: str
    guide: str


class Reply(Response):
    """The response to one request, whose answers are `asks`."""

    def __init__(
        self,
        desk: Desk,
        form: Form,
        asks: Sequence[Callable[[int], Ask]],
        fields: Fields,
        *,
        stream: bool,
        with_usage: bool,
    ) -> None:
        self.desk, self.form, self.asks, self.fields = desk, form, asks, fields
        self.stream, self.with_usage = stream, with_usage
        self.choices = [Choice() for _ in asks]
        self.background = None
        self.started_s = time.monotonic()
        self.status = 200
        self._parts: asyncio.Queue[Part] = asyncio.Queue()
        self._index: dict[int, int] = {}  # of the choice, by the id of its answer
        self._begun = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        desk = self.desk
        desk.admit()
        desk.taken += 1
        gone = asyncio.create_task(self._until_gone(receive))
        try:
            async with asyncio.timeout(desk.timeout_s):
                for index, ask in enumerate(self.asks):
                    self._index[desk.engine.ask(ask, self._parts.put_nowait)] = index
                await (self._streamed(send) if self.stream else self._whole(send))
        except _Gone:
            self.status = 499
        except TimeoutError:
            # the openai client would ask again, as it does for all time-outs
            never = {"X-Should-Retry": "false"}
            await self._fail(
                send, ApiError(504, f"the answer took longer than {desk.timeout_s:g} s", code="timeout", headers=never)
            )
        except ApiError as e:
            await self._fail(send, e)
        finally:
            desk.taken -= 1
            gone.cancel()
            for number in self._index:
                desk.engine.cancel(number)
            self._count()

    async def _until_gone(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._parts.put_nowait(GONE)

    # -- what comes ----------------------------------------------------------------------------------------------------

    async def _next(self) -> tuple[int, str, Any]:
        """The choice that goes on, its new text and log-probabilities. Raises ApiError; _Gone when nobody listens any more."""
        part = await self._parts.get()
        if part is GONE:
            raise _Gone
        if "error" in part:
            raise from_worker(part["error"], self.fields.text, self.fields.guide)
        index = self._index[part["id"]]
        choice = self.choices[index]
        logprobs = part.get("logprobs")
        if "finish" in part:
            choice.finish, choice.usage = part["finish"], part["usage"]
        if not self.stream:
            choice.text += part["text"]
            choice.logprobs = logprobs
        return index, part["text"], logprobs

    @property
    def _done(self) -> bool:
        return all(choice.finish for choice in self.choices)

    async def _whole(self, send: Send) -> None:
        while not self._done:
            await self._next()
        body = json.dumps(self.form.whole(self.choices), ensure_ascii=False, separators=(",", ":")).encode()
        await _start(send, b"application/json", len(body))
        await send({"type": "http.response.body", "body": body})

    async def _streamed(self, send: Send) -> None:
        begun: set[int] = set()
        while not self._done:
            index, text, logprobs = await self._next()
            events = []
            if index not in begun:
                begun.add(index)
                events.append(self.form.first(index))
            if text or logprobs:
                events.append(self.form.part(index, text, logprobs))
            if finish := self.choices[index].finish:
                events.append(self.form.end(index, finish))
            await self._write(send, "".join(events))
        if self.with_usage:
            await self._write(send, self.form.usage(self.choices))
        await send(_LAST)

    async def _fail(self, send: Send, error: ApiError) -> None:
        """Tells of an error: where a stream has begun, as an event of it, unless nobody reads there. Raises ApiError else."""
        self.status = error.status
        if not self._begun:
            raise error from None
        with suppress(TimeoutError):
            async with asyncio.timeout(5):
                await self._write(send, error_event(error.body()))
                await send(_LAST)

    async def _write(self, send: Send, events: str) -> None:
        if not self._begun:
            self._begun = True
            now = time.monotonic()
            self.desk.metrics.add("first_token_seconds_sum", now - self.started_s)
            self.desk.metrics.add("first_token_seconds_count")
            await _start(send, b"text/event-stream; charset=utf-8", None)
        await send({"type": "http.response.body", "body": events.encode(), "more_body": True})

    # -- what remains --------------------------------------------------------------------------------------------------

    def _count(self) -> None:
        metrics, seconds = self.desk.metrics, time.monotonic() - self.started_s
        usages = [choice.usage for choice in self.choices if choice.usage]
        tokens = {
            name: sum(usage[name] for usage in usages)
            for name in ("prompt_tokens", "cached_tokens", "completion_tokens")
        }
        metrics.add("requests_total", status=str(self.status))
        metrics.add("prompt_tokens_total", tokens["prompt_tokens"])
        metrics.add("cached_prompt_tokens_total", tokens["cached_tokens"])
        metrics.add("completion_tokens_total", tokens["completion_tokens"])
        metrics.add("request_seconds_sum", seconds)
        metrics.add("request_seconds_count")
        facts = {"status": self.status, "model": self.form.model, "wall_s": round(seconds, 3), **tokens}
        self.desk.emit(Event("metric", "serve", facts))


class _Gone(Exception):
    """The client went away."""


async def _start(send: Send, content_type: bytes, length: int | None) -> None:
    headers = [(b"content-type", content_type), (b"cache-control", b"no-store")]
    if length is not None:
        headers.append((b"content-length", str(length).encode()))
    else:
        headers.append((b"x-accel-buffering", b"no"))  # proxies of the kind of nginx are to pass each event on
    await send({"type": "http.response.start", "status": 200, "headers": headers})
