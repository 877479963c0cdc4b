"""The interface of a service that runs jobs: submit, status, logs from an offset, cancel, outputs.

Each call is one question that can be put again: an engine has no state but its connection. `follow.py` and `download.py` do the rest.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

from phi_runtime.remote.job import RemoteJob

JobState = Literal["queued", "running", "done", "failed", "canceled"]


@dataclass(frozen=True)
class Status:
    """The state of a job.

    Attributes:
        word: Name of the state at the service, such as `Preparing` or `PENDING`.
        why: Why the job failed, or is not running yet.
        where: Place that the error of the job names, on its machine; "" for none.
        fix: What to do about a failure; "" if the job did not print it.
        exit_code: Exit code of the error that the job printed.
    """

    name: str
    state: JobState
    word: str
    why: str = ""
    page: str = ""
    where: str = ""
    fix: str = ""
    exit_code: int = 1

    @property
    def has_ended(self) -> bool:
        return self.state in ("done", "failed", "canceled")


@dataclass(frozen=True)
class LogChunk:
    """New bytes of one log of a job: `offset` is that of its first byte."""

    log: str
    offset: int
    data: bytes = field(repr=False)


@dataclass(frozen=True)
class RemoteFile:
    """One file of an output, by its path below gen-model/."""

    name: str
    size_bytes: int


class RemoteEngine(Protocol):
    """A service that runs jobs. All methods raise NetworkError if it cannot be reached or refuses the request.

    Attributes:
        shares_disk: Its machines work in the folder of the project, where the outputs of a job are without a download.
    """

    name: str
    shares_disk: bool

    def render(self, job: RemoteJob) -> dict[str, str]:
        """Return the files that are submitted, by name. Needs no account, no network and no client."""
        ...

    def submit(self, job: RemoteJob) -> Status:
        """Submit the files of `render`, and return the status; a job that has this name at the service already is success."""
        ...

    def status(self, name: str) -> Status | None:
        """Return the status of a job; None if there is no job of this name."""
        ...

    def logs(self, name: str, offsets: Mapping[str, int]) -> Iterator[LogChunk]:
        """Yield what the logs of a job have from `offsets` on, by name of the log; 0 for a log that is not in it."""
        ...

    def cancel(self, name: str) -> None:
        """Cancel a job; nothing happens if it has ended."""
        ...

    def outputs(self, name: str) -> list[RemoteFile]:
        """Return the files of the job's gen-model/, of which there are none before it ends."""
        ...

    def read(self, name: str, file: RemoteFile, offset: int) -> Iterator[bytes]:
        """Yield the content of an output from `offset` on."""
        ...
