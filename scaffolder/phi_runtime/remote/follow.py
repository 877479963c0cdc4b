"""Follow a job until it ends: its status, and its log by range. Events in the log are those of `run --json`."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

from phi_runtime.core.errors import NetworkError, WorkFailed
from phi_runtime.core.events import Emit, Event
from phi_runtime.remote.engine import RemoteEngine, Status

Say = Callable[[str], None]
SHORTEST_S, LONGEST_S = 1.0, 15.0
"""Seconds between two requests: short while there is something new, longer while there is not."""
MOST_FAILURES = 20
"""Failures of the network in a row, after the retries of the engine, that a job is followed through: minutes."""


class LogReader:
    """The log of a job as events and lines, each once.

    Attributes:
        failure: The error of the run in the log; of the last run if the job was queued again.
    """

    def __init__(self, engine: RemoteEngine, name: str, emit: Emit, say: Say) -> None:
        self.engine, self.name, self.emit, self.say = engine, name, emit, say
        self.failure: Event | None = None
        self._offsets: dict[str, int] = {}
        self._rests: dict[str, bytes] = {}

    def read(self) -> bool:
        """Report what is new; return False if nothing is."""
        news = False
        for chunk in self.engine.logs(self.name, self._offsets):
            news = True
            self._offsets[chunk.log] = chunk.offset + len(chunk.data)
            *lines, rest = (self._rests.get(chunk.log, b"") + chunk.data).split(b"\n")
            self._rests[chunk.log] = rest
            for line in lines:
                self._report(line)
        return news

    def close(self) -> None:
        """Report lines that have no end."""
        for rest in self._rests.values():
            self._report(rest)
        self._rests.clear()

    def _report(self, line: bytes) -> None:
        text = line.decode("utf-8", "replace").rstrip("\r")
        if text.startswith('{"event":'):
            with suppress(ValueError, KeyError, TypeError):
                event = Event.from_dict(json.loads(text))
                if event.event == "error":
                    self.failure = event
                elif event.event == "stage-started":
                    self.failure = None
                self.emit(event)
                return
        if text.strip():
            self.say(text)


def follow(
    engine: RemoteEngine, name: str, emit: Emit, say: Say, *, pause: Callable[[float], None] = time.sleep
) -> Status:
    """Report status and log of the job `name` until it ends, and return its last status.

    Args:
        engine: The engine of the job.
        name: Name of the job.
        emit: Receives the events of the run.
        say: Receives changes of the status, and lines of the log that are no events.
        pause: Waits for a number of seconds.

    Raises:
        NetworkError: The service cannot be reached.
        WorkFailed: It has no such job.
    """
    reader = LogReader(engine, name, emit, say)
    word, wait, failures = "", SHORTEST_S, 0
    while True:
        try:
            status = engine.status(name)
            if status is None:
                raise WorkFailed(f"job {name} is gone from the service", fix="submit it again")
            state = f"{status.word} ({status.why})" if status.why and not status.has_ended else status.word
            if changed := state != word:
                word = state
                say(f"job {name}: {word}")
            news = reader.read() or changed  # after the status, so that the log of a job that has ended is complete
        except NetworkError as error:
            failures += 1
            if not word or failures > MOST_FAILURES:
                raise
            say(f"warning: {error}; trying again")
            pause(LONGEST_S)
            continue
        failures = 0
        if status.has_ended:
            reader.close()
            return _with_reason(status, reader.failure) if status.state == "failed" and reader.failure else status
        wait = SHORTEST_S if news else min(wait * 1.5, LONGEST_S)
        pause(wait)


def _with_reason(status: Status, failure: Event) -> Status:
    data = failure.data
    why, where, fix = (str(data.get(key) or "") for key in ("message", "where", "fix"))
    code = data.get("exit_code")
    return replace(status, why=why, where=where, fix=fix, exit_code=code if isinstance(code, int) else 1)
