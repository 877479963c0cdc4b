"""Connections that send nothing, or too slowly, end; their number is bounded. uvicorn on a socket, without models."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any

import pytest
import uvicorn

from phi_runtime.core.events import Event
from phi_runtime.serving import connections
from phi_runtime.serving.connections import BoundedProtocol, FaultReport
from phi_runtime.serving.server import listen

REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
Client = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def app(scope: dict[str, Any], _: Any, send: Callable[[dict[str, Any]], Awaitable[None]]) -> None:
    await asyncio.sleep(0.5 if scope["path"] == "/slow" else 0)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


@asynccontextmanager
async def served(**bounds: Any) -> Any:
    """Yields a function that opens a connection to a server with these bounds."""
    listener = listen("127.0.0.1", 0)
    config = uvicorn.Config(
        app, lifespan="off", log_config=None, http=partial(BoundedProtocol, **bounds), timeout_graceful_shutdown=1
    )
    server = uvicorn.Server(config)
    task = asyncio.create_task(server._serve([listener]))
    yield partial(asyncio.open_connection, *listener.getsockname()[:2])
    server.should_exit = True
    await task
    listener.close()


def run(main: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        await asyncio.wait_for(main(), 60)

    asyncio.run(bounded())


def test_a_small_part_of_an_answer_does_not_wait_for_the_acknowledgment_of_the_one_before() -> None:
    with listen("127.0.0.1", 0) as listener, socket.create_connection(listener.getsockname()[:2]):
        connection, _ = listener.accept()
        with connection:
            assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


@pytest.mark.parametrize("sent", [b"", b"GET / HT", REQUEST[:-2]])
def test_a_connection_without_a_complete_request_is_closed(sent: bytes) -> None:
    async def main() -> None:
        async with served(head_s=0.2) as connect:
            reader, writer = await connect()
            writer.write(sent)
            assert await reader.read() == b""
            writer.close()

    run(main)


def test_a_request_in_progress_is_not_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "KEEP_ALIVE_S", 0.2)

    async def main() -> None:
        async with served(head_s=0.1) as connect:
            reader, writer = await connect()
            writer.write(REQUEST.replace(b"/ ", b"/slow "))
            assert (await reader.readuntil(b"ok")).startswith(b"HTTP/1.1 200")
            writer.write(REQUEST[:10])  # part of a second one, which never comes
            assert await reader.read() == b""
            writer.close()

    run(main)


def test_more_connections_than_the_limit_are_closed_and_the_others_served() -> None:
    events: list[Event] = []

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(FaultReport(events.append))
        async with served(limit=3) as connect:
            open_ones = [await connect() for _ in range(3)]
            for _ in range(20):
                reader, writer = await connect()
                with suppress(ConnectionResetError):
                    assert await reader.read() == b""
                writer.close()
            for reader, writer in open_ones:
                writer.write(REQUEST)
                assert (await reader.readuntil(b"ok")).startswith(b"HTTP/1.1 200")
                writer.close()

    run(main)
    (warning,) = [event for event in events if event.event == "warning"]
    assert "3 are open" in warning.data["message"]
