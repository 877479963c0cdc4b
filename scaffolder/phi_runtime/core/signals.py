"""SIGINT and SIGTERM during work that must stop cleanly."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import FrameType

_left_to_caller: ContextVar[bool] = ContextVar("left_to_caller", default=False)


def interrupt(_: int, __: FrameType | None) -> None:
    """Handle SIGTERM as Python handles Ctrl-C. A handler for `handled_by`."""
    raise KeyboardInterrupt


@contextmanager
def handled_by(handler: Callable[[int, FrameType | None], object]) -> Iterator[None]:
    """Install `handler` for SIGINT and SIGTERM, also where a shell lets background jobs ignore them.

    Does nothing outside the main thread, where Python allows no handlers, and inside `left_to_caller`.
    """
    if _left_to_caller.get() or threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, old in previous.items():
            signal.signal(number, old)


@contextmanager
def left_to_caller() -> Iterator[None]:
    """Leave the signal handlers of the process alone: those of an application that uses this package as a library."""
    token = _left_to_caller.set(True)
    try:
        yield
    finally:
        _left_to_caller.reset(token)
