"""Commands that take long, as processes that a client polls: one at a time."""

from __future__ import annotations

import os
import signal
import subprocess
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from threading import Lock
from typing import Any, Literal

import psutil  # type: ignore[import-untyped]

from phi_runtime.core.errors import Conflict, UsageError
from phi_runtime.workers.process import Worker

State = Literal["running", "done", "failed", "canceled"]
INTERRUPT = signal.SIGTERM if os.name == "nt" else signal.SIGINT
SECOND_INTERRUPT_S, END_S = 10.0, 20.0
"""Seconds that a process gets to stop, after each of two interrupts."""
_EVENTS = 20  # of a job that a client sees
_LINES = 20  # of stderr, for a job that failed


class CommandJob:
    """A command at work, or its result.

    Args:
        id: Name for the client.
        words: Words after `phi-scaffold`.
        command: The command line.

    Attributes:
        events: Its last events.
        lines: The last lines that it printed on stderr.
        result: The last of its objects that is no event, or its last event.
    """

    def __init__(self, id: str, words: Sequence[str], command: Sequence[str]) -> None:
        self.id, self.words = id, tuple(words)
        self.is_canceled = False
        self.events: deque[dict[str, Any]] = deque(maxlen=_EVENTS)
        self.lines: deque[str] = deque(maxlen=_LINES)
        self.result: dict[str, Any] | None = None
        self._is_complete = False
        self.worker = Worker(command, self.id, output_messages=True, deliver=self._receive)
        self.worker.hang_up()  # it reads no input

    @property
    def process(self) -> subprocess.Popen[bytes]:
        return self.worker.process

    @property
    def state(self) -> State:
        if self.process.poll() is None or not self._is_complete:
            return "running"
        return "done" if not self.process.returncode else "canceled" if self.is_canceled else "failed"

    @property
    def exit_code(self) -> int | None:
        """The exit code as a shell has it: 130 also for an interpreter that SIGINT ended before it handled signals."""
        code = self.process.returncode
        return 128 - code if code is not None and code < 0 else code

    def as_dict(self) -> dict[str, Any]:
        """Return its state; `output` is what it printed on stderr, if it failed."""
        state = self.state
        facts = {"id": self.id, "command": self.words[0], "state": state, "exit_code": self.exit_code}
        output = list(self.lines) if state == "failed" else []
        return {**facts, "events": list(self.events), "result": self.result, "output": output}

    def _receive(self, message: Any) -> None:
        if message is None:
            self._is_complete = True
        elif isinstance(message, dict) and message.keys() == {"output"}:
            self.lines.append(message["output"].rstrip())
        elif isinstance(message, dict):
            self.result = message
            if "event" in message:
                self.events.append(message)


class Jobs:
    """The jobs of this server, the last one at the end."""

    def __init__(self) -> None:
        self._jobs: list[CommandJob] = []
        self._starting = Lock()

    def start(self, command: Sequence[str], arguments: Sequence[str]) -> CommandJob:
        """Start the job `arguments`, which is the command line `command`.

        Raises:
            Conflict: A job is running.
        """
        with self._starting:
            if running := next((job for job in self._jobs if job.state == "running"), None):
                raise Conflict(f"the job `{running.id}` is running", fix="wait for it, or cancel it")
            job = CommandJob(f"{arguments[0]}-{len(self._jobs) + 1}", arguments, command)
            self._jobs.append(job)
            return job

    def named(self, name: str) -> list[CommandJob]:
        """Return the job with the id `name`, or all jobs for an empty one. Raises UsageError if there is none."""
        found = [job for job in self._jobs if name in ("", job.id)]
        if name and not found:
            known = ", ".join(job.id for job in self._jobs) or "none"
            raise UsageError(f"there is no job `{name}`", fix=f"the jobs are: {known}")
        return found

    def cancel(self, name: str) -> CommandJob:
        """Stop a job, and return it once its process has ended. Raises UsageError if there is none."""
        (job,) = self.named(name or "(no name)")
        if job.state == "running":
            job.is_canceled = True
            for seconds in (SECOND_INTERRUPT_S, END_S):  # Python ignores one that it gets in a callback
                job.process.send_signal(INTERRUPT)
                with suppress(subprocess.TimeoutExpired):
                    job.process.wait(seconds)
                    break
            job.worker.end()
        return job


def end_all() -> None:
    """Interrupt all processes that this one has started, as Ctrl-C does, and kill those that do not end."""
    alive = psutil.Process().children()
    for seconds in (SECOND_INTERRUPT_S, END_S):
        for process in alive:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(INTERRUPT)
        _, alive = psutil.wait_procs(alive, timeout=seconds)
    for process in alive:
        process.kill()
