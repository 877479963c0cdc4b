"""The child's side of the protocol: JSON lines from and to the process that started this one."""

from __future__ import annotations

import gc
import json
import os
import signal
import threading
import traceback
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

from phi_runtime.core.errors import Interrupted, to_wire
from phi_runtime.core.events import Event
from phi_runtime.workers.failures import LESS_MEMORY, failure_from_exception

PARENT_GONE = 70
"""Exit code of a process whose parent has closed its stdin."""

Message = dict[str, Any]


class Parent:
    """The process that started this one. Create it once, first thing in `main`.

    Messages go to what was stdout; whatever libraries print there goes to stderr from now on. A thread reads stdin, so that
    the parent never blocks on a full pipe, and ends this process when stdin closes.

    Args:
        ends_with_stdin: False for a process that a user started: its stdin is a terminal, or closed already.
    """

    def __init__(self, *, ends_with_stdin: bool = True) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs of a shell start with SIGINT ignored
        gc.set_threshold(100_000)  # every 700 allocations, torch and transformers take a quarter longer to import
        self._stdout = os.dup(1)
        os.dup2(2, 1)
        self._sending = threading.Lock()
        self._inbox: SimpleQueue[Message] = SimpleQueue()
        if ends_with_stdin:
            threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        # os.read, not sys.stdin: a daemon thread must not hold the lock of Python's buffer when the interpreter ends
        pending = b""
        while chunk := os.read(0, 1 << 16):
            *lines, pending = (pending + chunk).split(b"\n")
            for line in lines:
                self._inbox.put(json.loads(line))
        os._exit(PARENT_GONE)

    def receive(self) -> Message:
        """Return the next message. Waits as long as the parent lives; this process ends with it."""
        return self._inbox.get()

    def pending(self) -> bool:
        """Return True if `receive` would not wait."""
        return not self._inbox.empty()

    def send(self, message: Message) -> None:
        """Send `message`. Ends this process if the parent is gone."""
        data = json.dumps(message).encode() + b"\n"
        try:
            with self._sending:
                while data:
                    data = data[os.write(self._stdout, data) :]
        except BrokenPipeError:
            os._exit(PARENT_GONE)

    def emit(self, event: Event) -> None:
        """Send `event`."""
        self.send(event.as_dict())

    def reply(self, work: Callable[[], Any], subject: str, *, memory_fix: str = LESS_MEMORY) -> None:
        """Send the result of `work`, or the error that ended it. The traceback goes to stderr, which is the log.

        Args:
            work: Does the work and returns a JSON value.
            subject: Names the work in error messages.
            memory_fix: What a user can do when memory runs out.
        """
        try:
            message = {"result": work()}
        except BaseException as e:  # tokenizers raises a PanicException, which is no Exception
            error = failure_from_exception(e, subject, memory_fix=memory_fix)
            if not isinstance(error, Interrupted):
                traceback.print_exc()
            message = {"error": to_wire(error)}
        self.send(message)
