"""Locks between processes: one run at a time in a project. A lock ends with its process, however that ends."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from phi_runtime.core.errors import Conflict


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold the lock file at `path`.

    Raises:
        Conflict: another process holds it.
    """
    from filelock import FileLock, Timeout

    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise Conflict(
            f"another run is active in this project (it holds {path})", fix="wait until it ends, or stop it"
        ) from None
    try:
        yield
    finally:
        lock.release()


def is_held(path: Path) -> bool:
    """Return True if another process holds the lock file at `path`."""
    from filelock import FileLock, Timeout

    if not path.exists():
        return False
    try:
        with FileLock(path, timeout=0):
            return False
    except Timeout:
        return True
