"""Points at which a process can be killed: each change of a file, and each read in the stages that only read.

`install` is called in every process of a command (see `tests.zygote`). It logs the points that the process passes, and sends
SIGKILL at one of them. `python -m tests.kill_points ARGUMENT…` is the command line of phi-scaffold with that.
"""

from __future__ import annotations

import json
import os
import re
import runpy
import signal
import sys
import threading
import time
from collections import Counter
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

VARIABLE = "PHI_TEST_KILL"
_CHANGES = {"os.rename": "rename", "os.remove": "remove", "os.rmdir": "rmdir", "os.mkdir": "mkdir"}
_READERS = {"phi_runtime.export.gate": "gate", "phi_runtime.evaluation": "evaluate", "phi_runtime.report": "report"}
_VARYING = re.compile(r"\d{8}-\d{6}-\d{6}|[0-9a-f]{12,}|(?<=checkpoint-)\d+|(?<=/)tmp\w{6,}")

Victims = Literal["all", "self", "parent", "disk"]
"""Processes to kill: all of the command, the one at the point, or its parent; `disk` fills the disk instead."""
FILLER = "filler"  # next to the watched folder


@dataclass(frozen=True)
class Point:
    """The `occurrence`-th time that a process does this to this file; names that vary between runs are `*`."""

    action: str
    path: str
    reader: str  # the stage that reads; "" for a change
    in_worker: bool
    occurrence: int


@dataclass(frozen=True)
class Plan:
    """The files to watch, the log of the points, and the point at which to kill which processes of the command."""

    root: str
    log: str
    at: Point | None = None
    victims: Victims = "all"
    delay_s: float = 0.0

    def as_text(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_text(cls, text: str) -> Plan:
        values = json.loads(text)
        return cls(**{**values, "at": values["at"] and Point(**values["at"])})


@dataclass(frozen=True)
class Log:
    """The processes of a command, the first one first, and the points that they passed."""

    pids: tuple[int, ...]
    points: tuple[Point, ...]
    struck: bool


def read_log(path: Path) -> Log:
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []
    pids = tuple(line["pid"] for line in lines if "pid" in line)
    points = tuple(Point(**line["point"]) for line in lines if "point" in line)
    return Log(pids, points, any("struck" in line for line in lines))


def install(text: str) -> None:
    """Watch this process as the plan in `text` says."""
    plan = Plan.from_text(text)
    in_worker = bool(read_log(Path(plan.log)).pids)
    log = os.open(plan.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(log, (json.dumps({"pid": os.getpid()}) + "\n").encode())
    seen: Counter[tuple[str, str, str]] = Counter()

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        if event != "open" and event not in _CHANGES:
            return
        path = _path(event, arguments)
        if path is None or not path.startswith(plan.root):
            return
        action = _CHANGES.get(event) or ("write" if arguments[2] & (os.O_WRONLY | os.O_RDWR) else "read")
        reader = _reader()
        if action == "read" and not reader:
            return
        name = _VARYING.sub("*", path[len(plan.root) + 1 :])
        seen[action, name, reader] += 1
        point = Point(action, name, reader, in_worker, seen[action, name, reader])
        os.write(log, (json.dumps({"point": asdict(point)}) + "\n").encode())
        if point == plan.at and not read_log(Path(plan.log)).struck:  # the process may be started once more
            os.write(log, b'{"struck": true}\n')
            if plan.delay_s:
                threading.Thread(target=lambda: (time.sleep(plan.delay_s), _kill(plan)), daemon=True).start()
            else:
                _kill(plan)

    sys.addaudithook(watch)


def _path(event: str, arguments: tuple[Any, ...]) -> str | None:
    path = arguments[1] if event == "os.rename" else arguments[0]
    if not isinstance(path, str | bytes | os.PathLike):
        return None
    text = os.fsdecode(path)
    folder = arguments[-1] if event in ("os.remove", "os.rmdir", "os.mkdir") else -1
    if isinstance(folder, int) and folder >= 0:
        with suppress(OSError):
            text = f"{Path(f'/proc/self/fd/{folder}').readlink()}/{text}"
    return text


def _reader() -> str:
    """Return the stage that only reads in which this thread is; "" for other work."""
    frame = sys._getframe(2)
    while frame is not None:
        name = frame.f_globals.get("__name__", "")
        if stage := next((stage for module, stage in _READERS.items() if name.startswith(module)), ""):
            return stage
        frame = frame.f_back  # type: ignore[assignment]
    return ""


def _kill(plan: Plan) -> None:
    if plan.victims == "disk":
        fill_disk(Path(plan.root).parent / FILLER)
        return
    if plan.victims == "parent":
        os.kill(os.getppid(), signal.SIGKILL)
        return
    others = read_log(Path(plan.log)).pids if plan.victims == "all" else ()
    for pid in (*(pid for pid in others if pid != os.getpid()), os.getpid()):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def fill_disk(file: Path) -> None:
    """Write to `file` until its disk is full."""
    for size in (1 << 20, 1 << 12, 1):
        with suppress(OSError), file.open("ab", buffering=0) as filler:
            while filler.write(bytes(size)) == size:
                pass


if __name__ == "__main__":
    sys.argv[0] = "phi-scaffold"
    if VARIABLE in os.environ and not read_log(Path(Plan.from_text(os.environ[VARIABLE]).log)).pids:
        from tests import kill_points

        kill_points.install(os.environ[VARIABLE])
    runpy.run_module("phi_scaffold", run_name="__main__", alter_sys=True)
