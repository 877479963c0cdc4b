"""Exceptions and exit codes of a process as errors that a user can act on."""

from __future__ import annotations

import signal
from pathlib import Path

from phi_runtime.core.errors import Interrupted, MissingDependency, OutOfResources, PhiError, WorkFailed, first_line
from phi_runtime.core.os_failures import failure_from_os_error, full_disk
from phi_runtime.core.project import setup_command

RUN_AGAIN = "run the same command again; completed steps are kept"
LESS_MEMORY = "lower per_device_train_batch_size and raise gradient_accumulation_steps, or train with QLoRA"


class Killed(OutOfResources):
    """A process was ended by SIGKILL. Linux does that to the largest one when memory runs out, but others may do it too."""


def failure_from_exception(
    error: BaseException, subject: str, *, memory_fix: str = LESS_MEMORY, folder: Path | None = None
) -> PhiError:
    """Return the error to show for `error`, raised by `subject` ("`finetune`", "the model builder").

    A PhiError is returned unchanged. A full disk, too little memory and a missing library get their own class and fix;
    anything else is a WorkFailed without a fix.
    """
    if isinstance(error, PhiError):
        return error
    if isinstance(error, KeyboardInterrupt):
        return Interrupted(f"{subject} was stopped", fix=RUN_AGAIN)
    message = str(error).strip()
    if isinstance(error, OSError) and (failure := failure_from_os_error(error, subject, folder)):
        return failure
    if "No space left on device" in message:  # of a library that raises its own class
        return full_disk(subject, folder)
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # torch's own class
        return OutOfResources(f"{subject} ran out of memory", fix=memory_fix)
    if isinstance(error, ImportError):
        return MissingDependency(
            f"{subject} needs a library that is not installed: {message}", fix=f"run `{setup_command()}` in the project"
        )
    return WorkFailed(first_line(f"{subject} failed: {type(error).__name__}: {message}").rstrip(": "))


def failure_from_exit_code(code: int | None, subject: str, *, memory_fix: str = LESS_MEMORY) -> PhiError:
    """Return the error for a process that ended with `code` and without a result.

    SIGKILL counts as too little memory. SIGINT and SIGTERM count as a request to stop, as at a system shutdown.
    """
    if code is None or code >= 0:
        return WorkFailed(f"{subject} ended with exit code {code}")
    name = signal_name(-code)
    if name in ("SIGINT", "SIGTERM"):
        return Interrupted(f"{subject} was stopped ({name})", fix=RUN_AGAIN)
    if name == "SIGKILL":
        return Killed(f"{subject} was killed (SIGKILL), most likely because memory ran out", fix=memory_fix)
    return WorkFailed(f"{subject} was killed ({name})")


def signal_name(number: int) -> str:
    """Return "SIGKILL" for 9; "signal 99" for a number without a name."""
    return signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
