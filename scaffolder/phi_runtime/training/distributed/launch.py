"""Trains on several processes: starts them through accelerate, hears what they tell, and ends them all, whatever happens.

SIGINT to the first worker asks all of them to stop: they finish the step, save and end. They hold one end of a pipe as their stdin;
when the other is closed, as it is also when this process is killed, they end at once.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from phi_runtime.context import PassContext
from phi_runtime.core.artifacts import write_text
from phi_runtime.core.errors import WorkFailed
from phi_runtime.core.events import Emit, Event
from phi_runtime.core.signals import handled_by
from phi_runtime.hardware.device import CORES, usable_cores
from phi_runtime.training.distributed.accelerate_config import accelerate_config, as_yaml
from phi_runtime.training.distributed.request import errors_of, forget_errors, write_request
from phi_runtime.training.distributed.shares import share
from phi_runtime.training.distributed.worker import WATCHED

_WORKER = "phi_runtime.training.distributed.worker"
_KILLED = re.compile(
    r"^\s*rank\s*: (\d+) .*\n\s*exitcode\s*: -(\d+)", re.M
)  # in torch's report of the processes that failed


def run_in_processes(context: PassContext, count: int) -> dict[str, Any]:
    """Runs the pass of `context`, one that trains, on `count` processes; returns its facts.

    Raises what a worker raised; WorkFailed when one ended without a word; KeyboardInterrupt at the second Ctrl-C.
    """
    given = context.config.training_args
    rows, accumulation = share(given.per_device_train_batch_size, given.gradient_accumulation_steps, count)
    message = (
        f"{count} processes: {rows} rows × {accumulation} batches × {count} = {rows * accumulation * count} rows a step"
    )
    context.emit(Event("progress", context.name, {"done": None, "total": None, "unit": "", "message": message}))
    folder = context.work / "processes"
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / "accelerate.yaml"
    write_text(config, as_yaml(accelerate_config(context.workflow, context.config, count)))
    request = write_request(context, folder)
    forget_errors(request)
    log = (context.record or folder) / f"{context.name}.processes.log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            _command(config, request),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=file,
            env=_environment(count),
            start_new_session=True,  # Ctrl-C at the terminal is for this process alone
        )
        try:
            signals = _Signals()
            with handled_by(signals.on_signal):
                facts = _listen(process, signals, context.emit)
        finally:
            _end(process)
    if facts is None:
        raise _reason(request, log, count)
    return {**facts, "processes": count}


def command_line(config: Path, request: Path, count: int) -> str:
    """What a user types to start the same by hand."""
    parts = ["accelerate", "launch", "--config_file", str(config), "-m", _WORKER, str(request)]
    return f"{CORES}={_cores(count)} {shlex.join(parts)}"


def _command(config: Path, request: Path) -> list[str]:
    return [
        sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(config), "-m", _WORKER, str(request)
    ]  # fmt: skip


def _environment(count: int) -> dict[str, str]:
    # PYTHONSAFEPATH: the project's folder datasets/ is not the library of that name
    cores = {CORES: str(_cores(count)), "OMP_NUM_THREADS": str(_cores(count))}
    return os.environ | cores | {WATCHED: "1", "PYTHONSAFEPATH": "1"}


def _cores(count: int) -> int:
    return max(1, usable_cores() // count)


class _Signals:
    """SIGINT and SIGTERM are passed on to the first worker, as SIGINT; at the second, or where there is nothing yet that could be
    saved, KeyboardInterrupt is raised."""

    def __init__(self) -> None:
        self.worker: int | None = None
        self.asked = False

    def on_signal(self, *_: object) -> None:
        if self.asked or self.worker is None or os.name == "nt":  # where one process cannot interrupt another
            raise KeyboardInterrupt
        self.asked = True
        with suppress(ProcessLookupError):
            os.kill(self.worker, signal.SIGINT)


def _listen(process: subprocess.Popen[bytes], signals: _Signals, emit: Emit) -> dict[str, Any] | None:
    """Passes events on until the workers are silent; returns the facts. Ends all workers when one has failed."""
    assert process.stdout is not None
    facts = None
    for raw in process.stdout:
        try:
            line = json.loads(raw)
        except ValueError:  # two of them spoke at once
            continue
        if "event" in line:
            emit(Event.from_dict(line))
        elif "pid" in line:
            signals.worker = line["pid"]
        elif "facts" in line:
            facts = line["facts"]
        else:
            _hang_up(process)
    return facts


def _hang_up(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    process.stdin.close()


def _end(process: subprocess.Popen[bytes]) -> None:
    """Leaves none of them behind: the workers end with the pipe, and the launcher with them."""
    _hang_up(process)
    try:
        process.wait(timeout=30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    assert process.stdout is not None
    process.stdout.close()


def _reason(request: Path, log: Path, count: int) -> BaseException:
    """What a run died of: a process that was killed comes first, since the others then only say that it has gone."""
    for rank, number in _KILLED.findall(log.read_text(encoding="utf-8", errors="replace")):
        if int(number) == signal.SIGTERM:  # by accelerate, because of another
            continue
        name = signal.Signals(int(number)).name if int(number) in set(signal.Signals) else f"signal {number}"
        return WorkFailed(
            f"process {rank} of {count} (counted from 0) was killed ({name})",
            fix=f"if memory ran out, take fewer processes or a smaller per_device_train_batch_size; what they said is in {log}",
        )
    for error in errors_of(request):
        return error
    return WorkFailed("the processes ended before the training did", fix=f"what they said is in {log}")
