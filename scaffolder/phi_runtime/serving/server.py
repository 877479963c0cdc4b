"""Opens the door: the socket, the signals, and the way to a quiet end."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from types import FrameType

import uvicorn

from phi_runtime.core.errors import Conflict, UsageError
from phi_runtime.core.events import Emit
from phi_runtime.serving.answering import Desk
from phi_runtime.serving.app import Limits, make_app
from phi_runtime.serving.engine import KEY, Engine
from phi_runtime.serving.guard import is_loopback
from phi_runtime.serving.metrics import Metrics
from phi_runtime.serving.wire import Load


@dataclass(frozen=True)
class Settings:
    """What is served, where, to whom and how much of it. `port` 0 takes a free one."""

    load: Load
    host: str = "127.0.0.1"
    port: int = 8080
    key: str | None = field(default=None, repr=False)
    origins: tuple[str, ...] = ()
    limits: Limits = field(default_factory=Limits)


@dataclass(frozen=True)
class Ready:
    """The base URL for clients, and the names that they may ask for."""

    url: str
    models: list[str]


def serve(settings: Settings, emit: Emit, on_ready: Callable[[Ready], None]) -> None:
    """Serves until SIGTERM; SIGINT raises KeyboardInterrupt after the same quiet end.

    At the first signal new requests get 503, and those that are taken in are answered, for `limits.stop_s` at most; the second signal
    breaks them off. Raises UsageError for a public address without a key, Conflict when the port is taken, and what keeps the models
    from being loaded.
    """
    if settings.key is None and not is_loopback(settings.host):
        raise UsageError(
            f"{settings.host} can be reached from other machines, and there is no API key",
            fix=f"set {KEY} in the environment or in .env, or serve on 127.0.0.1",
        )
    with listen(settings.host, settings.port) as door:
        stopped_by = asyncio.run(_serve(settings, door, emit, on_ready))
    if stopped_by == signal.SIGINT:
        raise KeyboardInterrupt


def listen(host: str, port: int) -> socket.socket:
    """A socket at this address. Raises Conflict, UsageError."""
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return socket.create_server(address[:2], family=family, backlog=2048)
    except socket.gaierror as e:
        raise UsageError(f"there is no address {host}: {e.strerror}", fix="check --host") from None
    except PermissionError:
        raise UsageError(f"this user may not open port {port}", fix="take one above 1023 with --port") from None
    except OSError as e:
        raise Conflict(
            f"port {port} of {host} is taken or cannot be had ({e.strerror})",
            fix="stop what listens there, or take another with --port (0 for any that is free)",
        ) from None


class _Server(uvicorn.Server):
    """uvicorn, with our way to stop."""

    def __init__(self, config: uvicorn.Config, on_signal: Callable[[int], None]) -> None:
        super().__init__(config)
        self.on_signal = on_signal

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.on_signal(sig)


class _Stop:
    """The way to the end; `by` is the signal that began it."""

    def __init__(self, engine: Engine, desk: Desk, stop_s: float) -> None:
        self.engine, self.desk, self.stop_s = engine, desk, stop_s
        self.by: int | None = None
        self.server: _Server | None = None
        self._loop = asyncio.get_running_loop()
        self._task: asyncio.Task[None] | None = None

    def on_signal(self, number: int) -> None:
        self._loop.call_soon_threadsafe(self._begin, number)

    def _begin(self, number: int) -> None:
        if self.by is None:
            self.by = number
            self._task = self._loop.create_task(self._drain())
        else:
            self.stop_s = 0

    async def _drain(self) -> None:
        self.engine.refuse()
        until = self._loop.time() + self.stop_s
        while self.desk.taken and self.stop_s and self._loop.time() < until:
            await asyncio.sleep(0.05)
        self.end()

    def end(self) -> None:
        self.engine.stop()
        if self.server:
            self.server.should_exit = True


async def _serve(settings: Settings, door: socket.socket, emit: Emit, on_ready: Callable[[Ready], None]) -> int | None:
    """Returns the signal that ended it."""
    limits = settings.limits
    engine = Engine(settings.load, emit, lambda: on_ready(Ready(_url(door), list(engine.models))))
    desk = Desk(engine, Metrics(), limits.parallel + limits.queue, limits.timeout_s, emit)
    stop = _Stop(engine, desk, limits.stop_s)
    config = uvicorn.Config(
        make_app(engine, desk, limits, settings.key, settings.origins),
        lifespan="off",
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=75,  # longer than clients keep a connection: else they ask on one that has just been closed
        timeout_graceful_shutdown=5,
    )
    server = stop.server = _Server(config, stop.on_signal)
    models = asyncio.create_task(engine.run())
    models.add_done_callback(lambda _: stop.end())
    await server.serve(sockets=[door])
    models.cancel()  # one that failed has failed before
    with suppress(asyncio.CancelledError):
        await models
    return stop.by


def _url(door: socket.socket) -> str:
    host, port = door.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/v1"
