"""Submit a job once: a job of the same name has done the work already, or is doing it."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from phi_runtime.remote.engine import Engine, Status
from phi_runtime.remote.job import RemoteJob
from phi_runtime.remote.plan import another_attempt

_MOST_ATTEMPTS = 1000


@dataclass(frozen=True)
class Attempt:
    """A job under the name that it has or gets at the service; `status` is None if it is not there yet."""

    job: RemoteJob
    status: Status | None


def find_attempt(engine: Engine, job: RemoteJob, *, again: bool = False) -> Attempt:
    """Return the attempt of `job` that runs or is done, or else the first one that is free.

    Args:
        engine: The engine to submit to.
        job: The job, under the name of its first attempt.
        again: Run it again even if an attempt is done.
    """
    attempt = job
    for number in range(2, _MOST_ATTEMPTS):
        status = engine.status(attempt.name)
        done = status is not None and (status.state in ("failed", "canceled") or (status.state == "done" and again))
        if not done:
            return Attempt(attempt, status)
        attempt = another_attempt(job, number)
    raise AssertionError(job.name)


def submit(engine: Engine, job: RemoteJob) -> Status:
    """Submit `job`, and return its status."""
    with tempfile.TemporaryDirectory(prefix="phi-scaffold-job-") as folder:
        return engine.submit(job, Path(folder))
