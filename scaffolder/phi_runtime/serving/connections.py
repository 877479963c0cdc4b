"""HTTP connections with limits: on their number, and on the time without a complete request.

uvicorn has neither. Without them, clients that open connections and send nothing, or a header byte now and then, take all file
descriptors of the process.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from phi_runtime.core.events import Emit, Event

HEAD_S = 20.0
"""Seconds in which the head of the first request must arrive."""
KEEP_ALIVE_S = 75
"""Seconds that a connection stays open between requests: longer than clients keep it, so that they never use a closed one."""
MOST_CONNECTIONS = 1000
_OTHER_DESCRIPTORS = 64  # files, pipes and libraries of this process
_REPORT_S = 60.0


class BoundedProtocol(H11Protocol):
    """A connection that ends if no request is in progress on it for too long.

    Args:
        limit: Connections of the server at the same time; more are closed at once.
        head_s: Seconds in which the head of the first request must arrive.
    """

    def __init__(self, *args: Any, limit: int = MOST_CONNECTIONS, head_s: float = HEAD_S, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.limit, self.head_s = limit, head_s
        self._requests = 0
        self._idle_since = self.loop.time()
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        if len(self.connections) > self.limit:
            self.loop.call_exception_handler({"message": f"refused a connection: {self.limit} are open"})
            transport.abort()
            return
        self._timer = self.loop.call_later(self.head_s, self._end_if_idle)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer:
            self._timer.cancel()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        self._requests += 1
        self._idle_since = self.loop.time()
        super().on_response_complete()

    def _end_if_idle(self) -> None:
        in_progress = self.cycle is not None and not self.cycle.response_complete
        allowed_s = KEEP_ALIVE_S + self.head_s if self._requests else self.head_s
        idle_s = self.loop.time() - self._idle_since
        if not in_progress and idle_s >= allowed_s:
            self.transport.close()
            return
        self._timer = self.loop.call_later(self.head_s if in_progress else allowed_s - idle_s, self._end_if_idle)


def connection_limit() -> int:
    """Return how many connections may be open, below the limit of file descriptors, which is raised as far as allowed."""
    with suppress(ImportError, OSError, ValueError):  # Windows has no such limit
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        needed = MOST_CONNECTIONS + _OTHER_DESCRIPTORS
        if soft != resource.RLIM_INFINITY and soft < needed:
            soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        if soft != resource.RLIM_INFINITY:
            return max(1, min(MOST_CONNECTIONS, soft - _OTHER_DESCRIPTORS))
    return MOST_CONNECTIONS


class FaultReport:
    """Exception handler of the event loop: a warning for the first fault of a minute; asyncio prints each with a traceback."""

    def __init__(self, emit: Emit) -> None:
        self.emit = emit
        self._next_s = 0.0
        self._unreported = 0

    def __call__(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if time.monotonic() < self._next_s:
            self._unreported += 1
            return
        error = context.get("exception")
        reason = f" ({type(error).__name__}: {error})" if error else ""
        more = f"; {self._unreported} more since the last report" if self._unreported else ""
        self.emit(Event("warning", "serve", {"message": f"{context['message']}{reason}{more}"}))
        self._next_s, self._unreported = time.monotonic() + _REPORT_S, 0
