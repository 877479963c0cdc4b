"""The mark of a process that runs inside a job on another machine."""

from __future__ import annotations

import os

JOB = "PHI_SCAFFOLD_JOB"
"""Environment variable with the name of the job."""


def in_job() -> bool:
    """Return True inside of a job, where every system of the config is this machine."""
    return bool(os.environ.get(JOB))
