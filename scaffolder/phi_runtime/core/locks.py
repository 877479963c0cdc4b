"""Locks between processes: one run at a time in a project. A lock ends with its process and the workers of that.

Next to a lock file is one that names its holder. A worker process inherits the descriptors of the locks: if its parent is
killed, they are held until the worker has ended as well, so that no two processes write to the same folder.
"""

from __future__ import annotations

import os
import platform
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from phi_runtime.core.artifacts import read_json, write_json
from phi_runtime.core.errors import Conflict
from phi_runtime.core.project import GEN_MODEL, RUN_LOCK, ProjectFolder

END_S = 10.0
"""Seconds to wait for a lock whose holder is gone: its workers are ending, or another process only looks if it is held."""
_descriptors: set[int] = set()


@dataclass(frozen=True)
class Holder:
    """The process that holds a lock; `since` is for people, `born` differs between processes with the same id."""

    pid: int
    born: float
    host: str
    since: str
    command: str

    @classmethod
    def this_process(cls) -> Holder:
        command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
        now = datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
        return cls(os.getpid(), _born(os.getpid()), platform.node(), now, command)

    @property
    def is_running(self) -> bool:
        """True if the process may still run: one of another machine always may."""
        return self.host != platform.node() or _born(self.pid) == self.born

    def conflict(self) -> Conflict:
        place = "" if self.host == platform.node() else f" on {self.host}"
        stop = f"taskkill /PID {self.pid}" if os.name == "nt" else f"kill {self.pid}"
        return Conflict(
            f"another run is active in this project{place}: `{self.command}`, process {self.pid}, since {self.since}",
            fix=f"watch it with `phi-scaffold status`, wait, or stop it with `{stop}`; its steps are kept",
        )


def _born(pid: int) -> float:
    """Return the start time of a process; 0 if there is none."""
    import psutil  # type: ignore[import-untyped]

    with suppress(psutil.Error):
        process = psutil.Process(pid)
        return 0.0 if process.status() == psutil.STATUS_ZOMBIE else float(process.create_time())
    return 0.0


@contextmanager
def exclusive(path: Path, wait: Callable[[Holder], None] | None = None) -> Iterator[None]:
    """Hold the lock file at `path`.

    Args:
        wait: Called with the running process that holds it, again and again until that releases it; None: raise Conflict.

    Raises:
        Conflict: another process holds it.
    """
    from filelock import FileLock, Timeout

    path.parent.mkdir(parents=True, exist_ok=True)
    lock, deadline = FileLock(path, timeout=0), time.monotonic() + END_S
    while not lock.is_locked:
        try:
            lock.acquire()
        except Timeout:
            holder = read_holder(path)
            if holder and holder.is_running:
                if wait is None:
                    raise holder.conflict() from None
                wait(holder)
                deadline = time.monotonic() + END_S
            elif time.monotonic() > deadline:
                raise Conflict(
                    f"processes of a run that was killed are still active in this project (they hold {path})",
                    fix="end them, then run the same command again",
                ) from None
            time.sleep(0.05)
    descriptor = lock._context.lock_file_fd
    assert descriptor is not None
    _descriptors.add(descriptor)
    with suppress(OSError):  # a full disk: the lock itself needs no space
        write_json(_holder_file(path), asdict(Holder.this_process()))
    try:
        yield
    finally:
        with suppress(OSError):
            _holder_file(path).unlink(missing_ok=True)
        _descriptors.discard(descriptor)
        lock.release()


@contextmanager
def exclusive_tasks(project: ProjectFolder) -> Iterator[None]:
    """Hold the locks of all tasks of a project.

    Raises:
        Conflict: A run of one of them is active.
    """
    outputs = project.root / GEN_MODEL
    # Not only of tasks with runs: the first command of a task may be a search, which has none.
    paths = {project.run_lock, outputs / RUN_LOCK, *outputs.glob(f"*/{RUN_LOCK}")}
    with ExitStack() as locks:
        for path in sorted(paths):
            locks.enter_context(exclusive(path))
        yield


def held_descriptors() -> tuple[int, ...]:
    """Return the descriptors of the locks that this process holds, for a worker to inherit; none on Windows."""
    return () if os.name == "nt" else tuple(sorted(_descriptors))


def read_holder(path: Path) -> Holder | None:
    """Return the process that held the lock file at `path` last; None if it released it or is not known."""
    try:
        return Holder(**read_json(_holder_file(path)))
    except (OSError, ValueError, TypeError):
        return None


def _holder_file(path: Path) -> Path:
    return path.with_name(f"{path.name}.holder")


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
