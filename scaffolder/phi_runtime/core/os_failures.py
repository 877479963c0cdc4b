"""Faults of the machine as errors that a user can act on: full and read-only disks, permissions, names that are too long."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from phi_runtime.core.errors import Location, OutOfResources, PhiError, UsageError, WorkFailed

FREE_DISK = "free some space on this disk, then run the same command again; completed steps are kept"
_FULL_BYTES = 1_000_000  # a disk with fewer free bytes is full
_FULL = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC), errno.EFBIG}
_REASONS: dict[int, tuple[type[PhiError], str, str]] = {
    errno.ENOENT: (UsageError, "it does not exist", "check the path"),
    errno.ENOTDIR: (UsageError, "a part of the path is a file", "check the path"),
    errno.EISDIR: (UsageError, "it is a folder", "name a file"),
    errno.EEXIST: (UsageError, "it exists already", "move it away"),
    errno.ENAMETOOLONG: (UsageError, "the name is too long for this disk", "use shorter names of files and folders"),
    errno.ELOOP: (UsageError, "its links lead in a circle", "check the links"),
    errno.EINVAL: (UsageError, "the disk does not accept this name", "use letters, digits, - and _ in names"),
    errno.EACCES: (WorkFailed, "this user has no permission", "check its owner and permissions"),
    errno.EPERM: (WorkFailed, "this user has no permission", "check its owner and permissions"),
    errno.EROFS: (WorkFailed, "the disk is read-only", "work in a folder on another disk"),
    errno.EIO: (WorkFailed, "the disk reports an error", "check the disk, and keep a copy of your data"),
    errno.EMFILE: (WorkFailed, "too many files are open", "raise the limit with `ulimit -n 4096`"),
    errno.ENFILE: (WorkFailed, "too many files are open", "end other programs"),
    errno.EBUSY: (WorkFailed, "another program uses it", "end that program"),
}


def failure_from_os_error(error: OSError, subject: str = "", folder: Path | None = None) -> PhiError | None:
    """Return the error for a fault of the disk or of a path; None for another one.

    Args:
        error: The error of the operating system.
        subject: The work that it ended, if it has a name ("`finetune`").
        folder: The folder that the work writes to, if it is known.
    """
    path = _shown(error.filename)
    prefix = f"{subject}: " if subject else ""
    if error.errno in _FULL:
        return full_disk(subject, Path(path) if path else folder)
    if error.errno == errno.ENOENT and not path and not _has_current_folder():
        return UsageError(f"{prefix}the current folder was deleted", fix="change into another folder")
    if error.errno is None or error.errno not in _REASONS or not path:
        return None
    kind, reason, fix = _REASONS[error.errno]
    return kind(f"{prefix}cannot use {path}: {reason}", fix=fix)


def full_disk(subject: str, place: Path | None) -> OutOfResources:
    """Return the error for a disk that became full in the work `subject`, at `place` unless another one is the full one."""
    places = (*([place] if place else []), Path(), *_other_places())
    where = next((other for other in places if is_full(other)), place)
    prefix = f"{subject}: " if subject else ""
    location = Location(where.absolute()) if where else None
    return OutOfResources(f"{prefix}the disk is full", where=location, fix=FREE_DISK, resource="disk")


def _other_places() -> Iterator[Path]:
    with suppress(OSError, RuntimeError):
        yield Path(tempfile.gettempdir())
        yield Path.home()


def is_full(place: Path) -> bool:
    """Return True if the disk of `place` is full."""
    with suppress(OSError, StopIteration):
        existing = next(path for path in (place, *place.absolute().parents) if path.exists())
        return shutil.disk_usage(existing).free < _FULL_BYTES
    return False


def _shown(name: object) -> str:
    text = os.fsdecode(name) if isinstance(name, str | bytes | os.PathLike) else ""
    return text if len(text) <= 200 else f"{text[:100]}…{text[-60:]}"


def _has_current_folder() -> bool:
    try:
        os.getcwd()  # noqa: PTH109 (Path.cwd is the same call)
    except OSError:
        return False
    return True
