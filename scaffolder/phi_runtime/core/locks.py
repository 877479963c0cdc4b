"""One run at a time in a project. The operating system lets go of the lock when its process ends, however it ends."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from phi_runtime.core.errors import Conflict


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Holds the lock file at `path`. Raises Conflict when another process holds it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as file:
        if not _take(file.fileno()):
            raise Conflict(f"another run is at work in this project ({path} is held)", fix="wait for it, or stop it")
        yield


def is_held(path: Path) -> bool:
    """Whether some process holds the lock."""
    if not path.exists():
        return False
    with path.open("a+b") as file:
        return not _take(file.fileno())


def _take(descriptor: int) -> bool:
    try:
        if os.name == "nt":
            import msvcrt

            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
        else:
            import fcntl

            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
