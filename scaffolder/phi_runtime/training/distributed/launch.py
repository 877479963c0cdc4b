"""Train on several processes: start them through accelerate, pass their events on, and end all of them in every case.

SIGINT or SIGTERM to the first process of a machine makes all of them finish the step, save and stop. Those of a machine share
one pipe as stdin; when its other end closes, as it also does when this process is killed, they end at once.
"""

from __future__ import annotations

import math
import os
import re
import shlex
import signal
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from phi_runtime.context import PassContext
from phi_runtime.core.artifacts import write_text
from phi_runtime.core.errors import PhiError, WorkFailed
from phi_runtime.core.project import ProjectFolder
from phi_runtime.core.signals import handled_by, interrupt
from phi_runtime.hardware.device import CORES, share_of, usable_cores
from phi_runtime.training.distributed.accelerate_config import accelerate_config, as_yaml
from phi_runtime.training.distributed.nodes import ALONE, Nodes, Rendezvous, shared_request
from phi_runtime.training.distributed.request import errors_of, forget_errors, read_request, write_request
from phi_runtime.training.distributed.shares import share
from phi_runtime.training.distributed.worker import WATCHED
from phi_runtime.workers.failures import signal_name
from phi_runtime.workers.process import SILENCE_S, Worker

_MODULE = "phi_runtime.training.distributed.worker"
_END_S = 30.0  # for the processes to end by themselves
# In torch's report of the processes that failed.
_KILLED = re.compile(r"^\s*rank\s*: (\d+) .*\n\s*exitcode\s*: -(\d+)", re.M)


def run_in_processes(context: PassContext, count: int, nodes: Nodes | None = None) -> dict[str, Any]:
    """Run the training pass of `context` on `count` processes and return its facts.

    Args:
        context: The context of the pass.
        count: Number of processes on each machine.
        nodes: The machines that train together, of which this is the first; None: this one.

    Raises:
        PhiError: The first error of a process; WorkFailed if one was killed or ended without a result.
        KeyboardInterrupt: At the second Ctrl-C.
    """
    settings = context.config.training_args
    machines = nodes.rendezvous if nodes else ALONE
    total = count * machines.count
    rows, accumulation = share(settings.per_device_train_batch_size, settings.gradient_accumulation_steps, total)
    where = f" on {machines.count} machines" if nodes else ""
    message = f"{total} processes{where}: {rows} rows × {accumulation} batches × {total} = {rows * accumulation * total} rows a step"
    context.info(message)
    folder = context.work / "processes"
    folder.mkdir(parents=True, exist_ok=True)
    request = write_request(context, folder)
    forget_errors(request)
    if nodes:
        machines = replace(machines, port=nodes.share_training(request, count))
    log = (context.record or folder) / f"{context.name}.processes.log"
    facts = _run_share(context, request, count, machines, log)
    if facts is None:
        raise _failure(request, log, total)
    return {**facts, "processes": total}


def join_trainings(nodes: Nodes, project: ProjectFolder) -> None:
    """Take part in each training of the first machine, until its run ends.

    Raises:
        PhiError: The run of the first machine did not succeed, or this machine cannot take part in it.
    """
    with handled_by(interrupt):
        while training := nodes.next_training():
            request = shared_request(training, project)
            context = read_request(request)
            machines = replace(nodes.rendezvous, port=training.port)
            log = (context.record or request.parent) / f"{context.name}.processes.{machines.rank}.log"
            if _run_share(context, request, training.processes, machines, log) is None:
                nodes.next_training(_END_S)  # the first machine knows best why it ended
                raise _failure(request, log, training.processes * machines.count)


def _run_share(
    context: PassContext, request: Path, count: int, machines: Rendezvous, log: Path
) -> dict[str, Any] | None:
    """Run the `count` processes of this machine; return what the first process found out, or None if it failed.

    The other machines have no facts, and no events on the way: an empty dictionary is success there.
    """
    rank = machines.rank
    silence_s = math.inf if rank else SILENCE_S
    config = request.with_name(f"accelerate.{rank}.yaml" if rank else "accelerate.yaml")
    write_text(config, as_yaml(accelerate_config(context.workflow, context.config, count * machines.count, machines)))
    command = [sys.executable, "-m", "accelerate.commands.launch", *_arguments(config, request)]
    facts: dict[str, Any] | None = None
    with Worker(command, f"`{context.name}`", log=log, environment=_environment(count)) as worker:
        try:
            signals = _Signals()
            with handled_by(signals.on_signal):
                for line in worker.messages(context.emit, silence_s):
                    if "pid" in line:
                        signals.first_pid = line["pid"]
                    elif "result" in line:
                        facts = line["result"]
                    else:  # one of them failed
                        worker.hang_up()
        finally:
            worker.end(_END_S)
    return {} if rank and worker.process.returncode == 0 else facts


def command_line(config: Path, request: Path, count: int) -> str:
    """Return the command that starts the same processes manually."""
    return f"{CORES}={_cores(count)} {shlex.join(['accelerate', 'launch', *_arguments(config, request)])}"


def _arguments(config: Path, request: Path) -> list[str]:
    return ["--config_file", str(config), "-m", _MODULE, str(request)]


def _environment(count: int) -> dict[str, str]:
    # PYTHONSAFEPATH: the project's folder `datasets/` must not shadow the library
    return share_of(_cores(count)) | {WATCHED: "1", "PYTHONSAFEPATH": "1"}


def _cores(count: int) -> int:
    return max(1, usable_cores() // count)


class _Signals:
    """Passes the first SIGINT or SIGTERM on to the first process.

    At the second SIGINT, or while there is nothing to save yet, KeyboardInterrupt is raised here. A second SIGTERM is ignored:
    cluster managers send several.
    """

    def __init__(self) -> None:
        self.first_pid: int | None = None
        self.passed_on = False

    def on_signal(self, number: int, _: object) -> None:
        if self.passed_on and number == signal.SIGTERM:
            return
        if self.passed_on or self.first_pid is None or os.name == "nt":  # Windows cannot interrupt another process
            raise KeyboardInterrupt
        self.passed_on = True
        with suppress(ProcessLookupError):
            os.kill(self.first_pid, number)


def _failure(request: Path, log: Path, count: int) -> PhiError:
    """Return why the training ended. A process that was killed comes first: the others only report that it is gone."""
    for rank, number in _KILLED.findall(log.read_text(encoding="utf-8", errors="replace")):
        if int(number) != signal.SIGTERM:  # which accelerate sends to the others
            return WorkFailed(
                f"process {rank} of {count} (counted from 0) was killed ({signal_name(int(number))})",
                fix="if memory ran out, use fewer processes or a smaller per_device_train_batch_size; "
                f"see the log: {log}",
            )
    for error in errors_of(request):
        error.fix = error.fix or f"see the log: {log}"
        return error
    return WorkFailed("the processes ended before the training was finished", fix=f"see the log: {log}")
