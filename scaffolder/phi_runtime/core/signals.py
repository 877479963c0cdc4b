"""SIGINT and SIGTERM while something is at work that must not simply break off."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


def interrupt(_: int, __: FrameType | None) -> None:
    """A handler that takes SIGTERM as Ctrl-C is."""
    raise KeyboardInterrupt


@contextmanager
def handled_by(handler: Callable[[int, FrameType | None], object]) -> Iterator[None]:
    """Within it, `handler` gets SIGINT and SIGTERM, also where a shell has the jobs in its background ignore them; in the main
    thread: elsewhere signals cannot be caught and stay as they are."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)
