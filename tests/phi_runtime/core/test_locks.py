"""Locks between processes: who holds one, and what a killed holder leaves."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from filelock import FileLock

from phi_runtime.core import locks
from phi_runtime.core.errors import Conflict
from phi_runtime.core.locks import Holder, exclusive, exclusive_tasks, is_held, read_holder
from phi_runtime.core.project import ProjectFolder
from phi_runtime.workers.process import Worker

HOLD = """
import sys, time
from pathlib import Path
from phi_runtime.core.locks import exclusive
with exclusive(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""
ORPHAN = """
import subprocess, sys, time
from pathlib import Path
from phi_runtime.core.locks import exclusive
from phi_runtime.workers.process import Worker
with exclusive(Path(sys.argv[1])):
    worker = Worker([sys.executable, "-c", "import time; time.sleep(1.5)"], "the work")
    print(worker.pid, flush=True)
    time.sleep(60)
"""

OPEN_LOCKS = """
import json, os
folder = "/proc/self/fd"
targets = [os.readlink(f"{folder}/{fd}") for fd in os.listdir(folder) if os.path.lexists(f"{folder}/{fd}")]
print(json.dumps({"locks": [os.path.basename(target) for target in targets if target.endswith(".lock")]}))
"""


def start(code: str, lock: Path) -> tuple[subprocess.Popen[str], str]:
    process = subprocess.Popen([sys.executable, "-c", code, str(lock)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


def test_a_second_run_is_told_which_process_holds_the_lock_since_when(tmp_path: Path) -> None:
    lock = tmp_path / "run.lock"
    process, _ = start(HOLD, lock)
    try:
        holder = read_holder(lock)
        assert holder is not None
        with pytest.raises(Conflict) as caught, exclusive(lock):
            pass
        assert holder.pid == process.pid
        assert f"process {process.pid}, since {holder.since}" in caught.value.what
        assert f"`kill {process.pid}`" in caught.value.fix
    finally:
        process.kill()
        process.wait()
    with exclusive(lock):
        assert read_holder(lock) == replace(Holder.this_process(), since=read_holder(lock).since)  # type: ignore[union-attr]
    assert read_holder(lock) is None
    assert not is_held(lock)


@pytest.mark.skipif(os.name == "nt", reason="a lock is not inherited there")
def test_the_worker_of_a_killed_run_keeps_its_lock_until_it_ends(tmp_path: Path) -> None:
    lock = tmp_path / "run.lock"
    process, worker = start(ORPHAN, lock)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert is_held(lock)
    with exclusive(lock):
        assert locks._born(int(worker)) == 0


def test_the_workers_of_a_killed_run_that_do_not_end_are_named_as_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "END_S", 0.1)
    lock = tmp_path / "run.lock"
    process, _ = start(HOLD, lock)
    try:
        gone = asdict(replace(Holder.this_process(), born=1.0))  # another process has that id now
        (tmp_path / "run.lock.holder").write_text(json.dumps(gone))
        with pytest.raises(Conflict, match="that was killed are still active"), exclusive(lock):
            pass
        other = asdict(replace(Holder.this_process(), born=1.0, host="elsewhere"))
        (tmp_path / "run.lock.holder").write_text(json.dumps(other))
        with pytest.raises(Conflict, match="in this project on elsewhere"), exclusive(lock):
            pass
    finally:
        process.kill()
        process.wait()


def test_a_lock_is_waited_for_as_long_as_its_holder_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "END_S", 0.1)
    lock = tmp_path / "run.lock"
    process, _ = start(HOLD, lock)
    pids = []

    def kill(holder: Holder) -> None:
        pids.append(holder.pid)
        process.kill()
        process.wait()

    with exclusive(lock, wait=kill):
        assert pids == [process.pid]


def test_the_workers_of_a_killed_run_are_not_waited_for_without_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "END_S", 0.1)
    process, _ = start(HOLD, tmp_path / "run.lock")
    try:
        gone = asdict(replace(Holder.this_process(), born=1.0))
        (tmp_path / "run.lock.holder").write_text(json.dumps(gone))
        waits = exclusive(tmp_path / "run.lock", wait=lambda _: None)
        with pytest.raises(Conflict, match="that was killed are still active"), waits:
            pass
    finally:
        process.kill()
        process.wait()


def test_the_locks_of_all_tasks_include_that_of_a_task_without_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its first command may be a sweep with a downloaded base, which opens no record in gen-model/<task>/runs."""
    monkeypatch.setattr(locks, "END_S", 0.0)
    project = ProjectFolder(tmp_path, tmp_path / "fine-tuning" / "olive-config.json")
    style = replace(project, output=tmp_path / "gen-model" / "style")
    with exclusive(style.run_lock), pytest.raises(Conflict), exclusive_tasks(project):
        pass
    with exclusive_tasks(project):
        assert is_held(style.run_lock)


def test_a_look_at_the_lock_refuses_no_run(tmp_path: Path) -> None:
    looking = FileLock(tmp_path / "run.lock", thread_local=False)  # as `is_held` does, but for longer
    looking.acquire()
    threading.Timer(0.2, looking.release).start()
    with exclusive(tmp_path / "run.lock"):
        assert read_holder(tmp_path / "run.lock") is not None


@pytest.mark.skipif(sys.platform != "linux", reason="lists descriptors through /proc")
def test_a_worker_inherits_the_locks_that_its_process_holds_at_that_time(tmp_path: Path) -> None:
    with exclusive(tmp_path / "a.lock"), Worker([sys.executable, "-c", OPEN_LOCKS], "the work") as worker:
        assert worker.receive() == {"locks": ["a.lock"]}
    with Worker([sys.executable, "-c", OPEN_LOCKS], "the work") as worker:
        assert worker.receive() == {"locks": []}
