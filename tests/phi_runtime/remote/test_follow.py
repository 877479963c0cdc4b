"""A job is followed to its end through failures of the network, and its reason is the last error of its run."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping

import pytest

from phi_runtime.core.errors import NetworkError
from phi_runtime.core.events import silent
from phi_runtime.remote.engine import LogChunk, RemoteFile, Status
from phi_runtime.remote.follow import MOST_FAILURES, follow
from phi_runtime.remote.job import RemoteJob

ERROR = {"event": "error", "stage": "lora", "time": "2026-11-29T02:55:05.693+00:00", "message": "no GPU"}


class Scripted:
    """An engine whose job has the states that a script names; "-" is a failure of the network."""

    name = "scripted"

    def __init__(self, *script: str, log: str = "") -> None:
        self.script, self.log = iter(script), log.encode()

    def status(self, name: str) -> Status | None:
        word = next(self.script)
        if word == "-":
            raise NetworkError("no answer")
        return Status(name, {"Failed": "failed", "Completed": "done"}.get(word, "running"), word, "exit code 5")  # type: ignore[arg-type]

    def logs(self, name: str, offsets: Mapping[str, int]) -> Iterator[LogChunk]:
        if data := self.log[offsets.get("log", 0) :]:
            yield LogChunk("log", offsets.get("log", 0), data)

    def render(self, job: RemoteJob) -> dict[str, str]:
        raise NotImplementedError

    def submit(self, job: RemoteJob) -> Status:
        raise NotImplementedError

    def cancel(self, name: str) -> None:
        raise NotImplementedError

    def outputs(self, name: str) -> list[RemoteFile]:
        raise NotImplementedError

    def read(self, name: str, file: RemoteFile, offset: int) -> Iterator[bytes]:
        raise NotImplementedError


def followed(engine: Scripted) -> tuple[Status, list[str]]:
    said: list[str] = []
    return follow(engine, "job", silent, said.append, pause=lambda _: None), said


def test_a_job_is_followed_through_failures_of_the_network() -> None:
    status, said = followed(Scripted("Running", *"-" * MOST_FAILURES, "Running", "-", "Completed", log="a line\n"))
    assert status.state == "done"
    assert said.count("a line") == 1
    assert sum("no answer" in line for line in said) == MOST_FAILURES + 1


def test_a_network_that_fails_for_long_or_from_the_start_is_an_error() -> None:
    for script in (["-"], ["Running", *"-" * (MOST_FAILURES + 1)]):
        with pytest.raises(NetworkError):
            followed(Scripted(*script))


def test_the_reason_of_a_failed_job_is_the_last_error_of_its_run() -> None:
    status, _ = followed(Scripted("Failed", log=json.dumps(ERROR) + "\n"))
    assert (status.state, status.why) == ("failed", "no GPU")
    assert followed(Scripted("Failed", log="killed\n"))[0].why == "exit code 5"
