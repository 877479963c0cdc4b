"""The parent's side of the protocol: a child process that exchanges JSON lines with this one."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, Self

from phi_runtime.core.errors import PhiError, WorkFailed, from_wire
from phi_runtime.core.events import Emit, Event
from phi_runtime.core.locks import held_descriptors
from phi_runtime.hardware.device import inherited_share
from phi_runtime.workers.child import Message
from phi_runtime.workers.failures import LESS_MEMORY, failure_from_exit_code

SILENCE_S = 24 * 3600.0
"""A child that sends nothing for this long counts as hanging: no single step of an export or a training takes a day."""
_END_S = 30.0  # for a killed process to disappear, and for its readers to finish


def python(module: str, *arguments: str) -> list[str]:
    """Return the command that runs `module` in this interpreter; -P keeps the project's `datasets/` from shadowing the library."""
    return [sys.executable, "-P", "-m", module, *arguments]


class Worker:
    """A child process, in its own session: Ctrl-C at the terminal reaches this process alone.

    A context manager; leaving it ends the child. Threads read and write the pipes, so neither side blocks on a full one.

    Args:
        command: The command line, usually from `python`.
        subject: Names the work in error messages ("the model builder").
        log: File for the child's stderr, replaced; None lets it print to this process's stderr.
        environment: Variables in addition to those of this process; None removes one.
        output_messages: Also deliver each line of stderr as {"output": line}.
        deliver: Receives each message, and None at the end, on a reader thread; by default they wait for `receive`.
        memory_fix: What a user can do when memory runs out.
    """

    def __init__(
        self,
        command: Sequence[str],
        subject: str,
        *,
        log: Path | None = None,
        environment: Mapping[str, str | None] | None = None,
        output_messages: bool = False,
        deliver: Callable[[Message | None], None] | None = None,
        memory_fix: str = LESS_MEMORY,
    ) -> None:
        self.subject, self.log, self.memory_fix = subject, log, memory_fix
        self._last_output = ""
        self._inbox: SimpleQueue[Message | None] = SimpleQueue()
        self._outbox: SimpleQueue[bytes | None] = SimpleQueue()
        self._deliver = deliver or self._inbox.put
        variables = {**os.environ, **inherited_share(), **(environment or {})}
        if log:
            log.parent.mkdir(parents=True, exist_ok=True)
        stderr = log.open("wb") if log and not output_messages else None
        try:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE if output_messages else stderr,
                env={name: value for name, value in variables.items() if value is not None},
                start_new_session=True,
                pass_fds=held_descriptors(),
            )
        finally:
            if stderr is not None:
                stderr.close()
        self._threads = [threading.Thread(target=self._write, daemon=True)]
        if output_messages:
            self._threads.append(threading.Thread(target=self._read_output, daemon=True))
        self._threads.append(threading.Thread(target=self._read, args=(self._threads[1:],), daemon=True))
        for thread in self._threads:
            thread.start()

    @property
    def pid(self) -> int:
        return self.process.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    # -- messages ----------------------------------------------------------------------------------------------------------

    def send(self, message: Message) -> None:
        """Send `message`, without waiting. A child that has ended shows in what is received, not here."""
        self._outbox.put(json.dumps(message).encode() + b"\n")

    def receive(self, silence_s: float = SILENCE_S) -> Message | None:
        """Return the next message, or None when no more can come.

        Raises:
            WorkFailed: Nothing came for `silence_s` seconds; the child is ended.
        """
        deadline = time.monotonic() + silence_s
        while (remaining_s := deadline - time.monotonic()) > 0:
            with suppress(Empty):
                return self._inbox.get(timeout=min(remaining_s, 1))  # on Windows, Ctrl-C waits for the timeout
        self.end()
        raise self._with_log(WorkFailed(f"{self.subject} sent nothing for {silence_s:g} s"))

    def messages(self, emit: Emit, silence_s: float = SILENCE_S) -> Iterator[Message]:
        """Yield messages until no more can come. Events go to `emit`; an error is raised."""
        while (message := self.receive(silence_s)) is not None:
            if "event" in message:
                emit(Event.from_dict(message))
            elif "error" in message:
                raise self._with_log(from_wire(message["error"]))
            else:
                yield message

    def result(self, emit: Emit, handle: Callable[[Message], None] | None = None, silence_s: float = SILENCE_S) -> Any:
        """Return the result of the request that was sent.

        Args:
            emit: Receives the events on the way.
            handle: Receives all other messages.
            silence_s: As for `receive`.

        Raises:
            PhiError: The error that the child sent, or why it ended without a result.
        """
        for message in self.messages(emit, silence_s):
            if "result" in message:
                return message["result"]
            if handle:
                handle(message)
        raise self.failure()

    def failure(self) -> PhiError:
        """Return why the child ended without a result."""
        self.end(grace_s=5)  # closing stdout comes before the end
        error = failure_from_exit_code(self.process.returncode, self.subject, memory_fix=self.memory_fix)
        if isinstance(error, WorkFailed) and self._last_output:  # which may say why
            error.what = f"{error.what}: {self._last_output}"
        return self._with_log(error)

    def _with_log(self, error: PhiError) -> PhiError:
        if self.log and not error.fix:
            error.fix = f"see the log: {self.log}"
        return error

    # -- the end -----------------------------------------------------------------------------------------------------------

    def interrupt(self) -> None:
        """Send SIGINT, so that the child saves its work and stops. On Windows, Ctrl-C has reached it already."""
        if self.process.poll() is None and os.name != "nt":
            self.process.send_signal(signal.SIGINT)

    def hang_up(self) -> None:
        """Close the child's stdin: a child that follows the protocol ends, and so do the children it shares stdin with."""
        self._outbox.put(None)

    def end(self, grace_s: float = 0.0) -> None:
        """End the child: close its stdin, wait up to `grace_s` seconds, then kill its process group."""
        self.hang_up()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(grace_s)
        if self.process.poll() is None:
            with suppress(ProcessLookupError):
                self.process.kill() if os.name == "nt" else os.killpg(self.pid, signal.SIGKILL)
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(_END_S)
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(_END_S)

    # -- threads -----------------------------------------------------------------------------------------------------------

    def _write(self) -> None:
        assert self.process.stdin
        with suppress(BrokenPipeError, OSError), self.process.stdin as stdin:
            while (line := self._outbox.get()) is not None:
                stdin.write(line)
                stdin.flush()

    def _read(self, others: Sequence[threading.Thread]) -> None:
        assert self.process.stdout
        with self.process.stdout as stdout:
            for line in stdout:
                with suppress(ValueError):  # processes that share this pipe may write at the same time
                    self._deliver(json.loads(line))
        for thread in others:
            thread.join(_END_S)
        self._deliver(None)

    def _read_output(self) -> None:
        assert self.process.stderr
        log = self.log.open("w", encoding="utf-8") if self.log else None
        with io.TextIOWrapper(self.process.stderr, encoding="utf-8", errors="replace") as lines:
            for line in lines:  # universal newlines: a \r of a progress bar ends a line too
                self._last_output = line.strip() or self._last_output
                self._deliver({"output": line})
                if log:
                    with suppress(OSError):  # a full disk must not stop this thread: the child would wait for it
                        log.write(line)
                        log.flush()
        if log:
            with suppress(OSError):
                log.close()
