"""Start and stop the HTTP server: socket, signals, graceful shutdown."""

from __future__ import annotations

import asyncio
import errno
import signal
import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from types import FrameType

import uvicorn

from phi_runtime.core.errors import Conflict, UsageError
from phi_runtime.core.events import Emit
from phi_runtime.serving.answering import AdmissionQueue
from phi_runtime.serving.app import ServingLimits, build_app
from phi_runtime.serving.connections import KEEP_ALIVE_S, BoundedProtocol, FaultReport, connection_limit
from phi_runtime.serving.engine import KEY, Engine
from phi_runtime.serving.guard import is_loopback
from phi_runtime.serving.wire import LoadRequest

STOP_S = 30.0
"""Seconds that running answers get at a graceful shutdown."""


@dataclass(frozen=True)
class ServerSettings:
    """Settings of a server.

    Attributes:
        load: The models to load.
        host: Address to listen on; others than this machine's own need a `key`.
        port: Port to listen on; 0 chooses a free one.
        key: API key that clients need.
        origins: Origins that CORS allows.
        limits: Limits and defaults of requests.
    """

    load: LoadRequest
    host: str = "127.0.0.1"
    port: int = 8080
    key: str | None = field(default=None, repr=False)
    origins: tuple[str, ...] = ()
    limits: ServingLimits = field(default_factory=ServingLimits)


def serve(
    settings: ServerSettings,
    emit: Emit,
    on_ready: Callable[[str, list[str]], None],
    on_loading: Callable[[], None] = lambda: None,
) -> None:
    """Serve until SIGTERM or SIGINT.

    At the first signal, new requests get 503 and running ones may finish within `STOP_S`; a second signal ends them.

    Args:
        settings: Settings of the server.
        emit: Receives an event for each request, and warnings.
        on_ready: Called once the models are loaded, with the base URL for clients and the names of the models.
        on_loading: Called once the address is open, before the models are loaded.

    Raises:
        UsageError: The address is public and there is no key, or it is not one of this machine.
        Conflict: The port is in use.
        PhiError: The models cannot be loaded.
        KeyboardInterrupt: The signal was SIGINT; raised after the shutdown.
    """
    if settings.key is None and not is_loopback(settings.host):
        raise UsageError(
            f"`{settings.host}` is reachable from other machines, and no API key is set",
            fix=f"set {KEY} in the environment or in .env, or serve on 127.0.0.1",
        )
    with listen(settings.host, settings.port) as listener:
        on_loading()
        stopped_by = asyncio.run(_serve(settings, listener, emit, on_ready))
    if stopped_by == signal.SIGINT:
        raise KeyboardInterrupt


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens on this address. Raises Conflict, UsageError."""
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = socket.create_server(address[:2], family=family, backlog=2048)
        # Its connections inherit it; asyncio sets it only for sockets whose protocol number is not 0 (CPython 3.11 to 3.13).
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return listener
    except socket.gaierror as e:
        raise UsageError(f"host `{host}` cannot be resolved: {e.strerror}", fix="check --host") from None
    except PermissionError:
        raise UsageError(f"this user may not open port {port}", fix="use a port above 1023 with --port") from None
    except OSError as e:
        if e.errno == errno.EADDRNOTAVAIL:
            raise UsageError(
                f"host `{host}` is not an address of this machine",
                fix="use --host 127.0.0.1, or 0.0.0.0 for all addresses of this machine",
            ) from None
        raise Conflict(
            f"port {port} of {host} is not available ({e.strerror})",
            fix="stop the program that uses it, or choose another with --port (0: any free port)",
        ) from None


class _Server(uvicorn.Server):
    """uvicorn, with `on_signal` in place of its own signal handling."""

    def __init__(self, config: uvicorn.Config, on_signal: Callable[[int], None]) -> None:
        super().__init__(config)
        self.on_signal = on_signal

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.on_signal(sig)


class _Shutdown:
    """Graceful shutdown. `signal` is the one that started it."""

    def __init__(self, queue: AdmissionQueue) -> None:
        self.queue, self.stop_s = queue, STOP_S
        self.signal: int | None = None
        self.server: _Server | None = None
        self._loop = asyncio.get_running_loop()
        self._task: asyncio.Task[None] | None = None

    def on_signal(self, number: int) -> None:
        self._loop.call_soon_threadsafe(self._begin, number)

    def _begin(self, number: int) -> None:
        if self.signal is None:
            self.signal = number
            self._task = self._loop.create_task(self._drain())
        else:
            self.stop_s = 0

    async def _drain(self) -> None:
        self.queue.engine.refuse()
        deadline = self._loop.time() + self.stop_s
        while self.queue.active and self.stop_s and self._loop.time() < deadline:
            await asyncio.sleep(0.05)
        self.end()

    def end(self) -> None:
        self.queue.engine.stop()
        if self.server:
            self.server.should_exit = True


async def _serve(
    settings: ServerSettings, listener: socket.socket, emit: Emit, on_ready: Callable[[str, list[str]], None]
) -> int | None:
    """Return the signal that ended the server."""
    limits = settings.limits
    asyncio.get_running_loop().set_exception_handler(FaultReport(emit))
    engine = Engine(settings.load, emit, lambda: on_ready(_url(listener), list(engine.models)))
    queue = AdmissionQueue(engine, settings.load.parallel + limits.queue, limits.timeout_s, emit)
    shutdown = _Shutdown(queue)
    config = uvicorn.Config(
        build_app(queue, limits, settings.key, settings.origins),
        lifespan="off",
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        http=partial(BoundedProtocol, limit=connection_limit()),
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=5,
    )
    server = shutdown.server = _Server(config, shutdown.on_signal)
    models = asyncio.create_task(engine.run())
    models.add_done_callback(lambda _: shutdown.end())
    await server.serve(sockets=[listener])
    models.cancel()  # no effect on a task that has failed
    with suppress(asyncio.CancelledError):
        await models
    return shutdown.signal


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/v1"
