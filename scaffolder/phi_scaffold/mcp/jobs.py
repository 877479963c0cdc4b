"""Commands that take long, as processes that a client polls: one at a time."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from threading import Lock, Thread
from typing import Any, Literal

import psutil  # type: ignore[import-untyped]

from phi_runtime.core.errors import Conflict, UsageError

State = Literal["running", "done", "failed", "canceled"]
INTERRUPT = signal.SIGTERM if os.name == "nt" else signal.SIGINT
SECOND_INTERRUPT_S, END_S = 10.0, 20.0
"""Seconds that a process gets to stop, after each of two interrupts."""
_EVENTS = 20  # of a job that a client sees
_LINES = 20  # of stderr, for a job that failed


@dataclass
class Job:
    """A command at work, or its result.

    Attributes:
        id: Name for the client.
        command: Words after `phi-scaffold`.
        process: The process; the leader of a session.
        events: Its last events.
        result: The last of its objects that is no event, or its last event.
    """

    id: str
    command: tuple[str, ...]
    process: subprocess.Popen[bytes]
    is_canceled: bool = False
    events: deque[dict[str, Any]] = field(default_factory=lambda: deque(maxlen=_EVENTS))
    lines: deque[str] = field(default_factory=lambda: deque(maxlen=_LINES))
    result: dict[str, Any] | None = None
    readers: tuple[Thread, ...] = ()

    @property
    def state(self) -> State:
        if self.process.poll() is None or any(reader.is_alive() for reader in self.readers):
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
        facts = {"id": self.id, "command": self.command[0], "state": state, "exit_code": self.exit_code}
        output = list(self.lines) if state == "failed" else []
        return {**facts, "events": list(self.events), "result": self.result, "output": output}

    def read(self) -> None:
        """Read both outputs on threads, until the process closes them."""
        readers = Thread(target=self._read_events, daemon=True), Thread(target=self._read_lines, daemon=True)
        for reader in readers:
            reader.start()
        self.readers = readers

    def _read_events(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            try:
                value = json.loads(line)
            except ValueError:
                continue
            if isinstance(value, dict):
                self.result = value
                if "event" in value:
                    self.events.append(value)

    def _read_lines(self) -> None:
        assert self.process.stderr
        for line in self.process.stderr:
            self.lines.append(line.decode(errors="replace").rstrip())


class Jobs:
    """The jobs of this server, the last one at the end."""

    def __init__(self) -> None:
        self._jobs: list[Job] = []
        self._starting = Lock()

    def start(self, command: Sequence[str], arguments: Sequence[str]) -> Job:
        """Start the job `arguments`, which is the command line `command`.

        Raises:
            Conflict: A job is running.
        """
        with self._starting:
            if running := next((job for job in self._jobs if job.state == "running"), None):
                raise Conflict(f"the job `{running.id}` is running", fix="wait for it, or cancel it")
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,  # Ctrl-C reaches the server alone, which ends its jobs
            )
            job = Job(f"{arguments[0]}-{len(self._jobs) + 1}", tuple(arguments), process)
            job.read()
            self._jobs.append(job)
            return job

    def named(self, name: str) -> list[Job]:
        """Return the job with the id `name`, or all jobs for an empty one. Raises UsageError if there is none."""
        found = [job for job in self._jobs if name in ("", job.id)]
        if name and not found:
            known = ", ".join(job.id for job in self._jobs) or "none"
            raise UsageError(f"there is no job `{name}`", fix=f"the jobs are: {known}")
        return found

    def cancel(self, name: str) -> Job:
        """Stop a job, and return it once its process has ended. Raises UsageError if there is none."""
        (job,) = self.named(name or "(no name)")
        if job.state == "running":
            job.is_canceled = True
            for seconds in (SECOND_INTERRUPT_S, END_S):  # Python ignores one that it gets in a callback
                job.process.send_signal(INTERRUPT)
                with suppress(subprocess.TimeoutExpired):
                    job.process.wait(seconds)
                    break
            else:
                job.process.kill()
                job.process.wait()
            for reader in job.readers:
                reader.join()
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
