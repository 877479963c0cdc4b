"""The machines of a cluster that train together.

Each runs the same command, started once per machine with the variables of torchrun. The first one runs the workflow; the
others wait for its trainings, at a TCP store of torch at MASTER_ADDR:MASTER_PORT. They share the project's file system.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import MutableMapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from phi_runtime.core.artifacts import file_digest
from phi_runtime.core.errors import Interrupted, UsageError, WorkFailed
from phi_runtime.core.project import ProjectFolder

_REQUIRED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_OTHERS = (
    "LOCAL_RANK",
    "LOCAL_WORLD_SIZE",
    "GROUP_RANK",
    "GROUP_WORLD_SIZE",
    "NODE_RANK",
    "TORCHELASTIC_USE_AGENT_STORE",
)
_START = timedelta(hours=1)  # until the first machine has started: its image may still be downloading
_POLL_S = 0.5
_LEAVE_S = 30.0  # for the other machines to learn of the end
_SHARED_S = 60.0  # until a file of the first machine is visible here: NFS caches folders


@dataclass(frozen=True)
class Rendezvous:
    """The machines that train together: the rank of this one, their number, and the address and port at which they meet."""

    rank: int
    count: int
    address: str
    port: int
    served: bool = False  # torchrun has a store there already


ALONE = Rendezvous(0, 1, "", 0)
"""This machine alone; its processes meet at any free port."""


def take_rendezvous(environment: MutableMapping[str, str] = os.environ) -> Rendezvous | None:
    """Return the machines that torchrun's variables describe, and remove them; None if there is only one.

    Libraries would otherwise wait for the other machines wherever they find these variables.

    Raises:
        UsageError: Variables are missing or wrong, or there are several processes per machine.
    """
    if environment.get("WORLD_SIZE", "1") == "1":
        return None
    if missing := [name for name in _REQUIRED if not environment.get(name)]:
        raise UsageError(
            f"WORLD_SIZE is {environment['WORLD_SIZE']}, but {' and '.join(missing)} is not set",
            fix=f"set {', '.join(_REQUIRED)}, or remove WORLD_SIZE to run on one machine",
        )
    if environment.get("LOCAL_RANK", "0") != "0" or environment.get("LOCAL_WORLD_SIZE", "1") != "1":
        raise UsageError(
            "several processes per machine were started", fix="start one per machine, and set `--nproc` to its GPUs"
        )
    rank, count, port = (environment[name] for name in ("RANK", "WORLD_SIZE", "MASTER_PORT"))
    if not (rank.isdecimal() and count.isdecimal() and port.isdecimal() and int(rank) < int(count)):
        raise UsageError(f"RANK={rank} WORLD_SIZE={count} MASTER_PORT={port} is not valid", fix="check these variables")
    served = environment.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    machines = Rendezvous(int(rank), int(count), environment["MASTER_ADDR"], int(port), served)
    for name in (*_REQUIRED, *_OTHERS):
        environment.pop(name, None)
    return machines


@dataclass(frozen=True)
class SharedTraining:
    """A training of the first machine, for the others to join.

    Attributes:
        request: File of `request.write_request`.
        digest: Digest of that file.
        processes: Number of processes on each machine.
        port: Port of the first machine at which the processes meet.
    """

    request: str
    digest: str
    processes: int
    port: int


class Nodes:
    """The connection of this machine to the others. A context manager; leaving it on the first machine ends the others' wait."""

    def __init__(self, rendezvous: Rendezvous) -> None:
        from torch.distributed import DistError, TCPStore

        self.rendezvous = rendezvous
        self._trainings = 0
        serves = rendezvous.rank == 0 and not rendezvous.served
        try:
            self._store = TCPStore(
                rendezvous.address, rendezvous.port, is_master=serves, timeout=_START, wait_for_workers=False
            )
        except DistError as e:
            at = f"{rendezvous.address}:{rendezvous.port}"
            raise WorkFailed(f"the machines cannot meet at {at}: {e}", fix="check MASTER_ADDR and MASTER_PORT") from e

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _: type[BaseException] | None, error: BaseException | None, __: TracebackType | None) -> None:
        if self.rendezvous.rank == 0:
            code = 0 if error is None else getattr(error, "exit_code", 1)
            self._send({"exit_code": code})
            deadline = time.monotonic() + _LEAVE_S
            others = [_left(rank) for rank in range(1, self.rendezvous.count)]
            while time.monotonic() < deadline and not self._store.check(others):
                time.sleep(_POLL_S)
        else:
            with suppress(RuntimeError):  # the first machine is gone
                self._store.set(_left(self.rendezvous.rank), "")

    def _send(self, message: dict[str, Any]) -> None:
        self._store.set(f"phi-scaffold/{self._trainings}", json.dumps(message))
        self._trainings += 1

    # -- the first machine -------------------------------------------------------------------------------------------------

    def share_training(self, request: Path, processes: int) -> int:
        """Let the other machines join the training of `request`, and return the port at which all processes meet."""
        with socket.socket() as free:
            free.bind(("", 0))
            port = int(free.getsockname()[1])
        self._send(asdict(SharedTraining(str(request), file_digest(request), processes, port)))
        return port

    # -- the other machines ------------------------------------------------------------------------------------------------

    def next_training(self, limit_s: float | None = None) -> SharedTraining | None:
        """Wait for the next training of the first machine, and return it; None at the end of its run, or after `limit_s` seconds.

        Raises:
            WorkFailed: The run of the first machine failed or broke off.
            Interrupted: The run of the first machine was stopped.
        """
        message = self._receive(limit_s)
        if "request" in message:
            return SharedTraining(**message)
        code = message.get("exit_code", 0)
        if code == Interrupted.exit_code:
            raise Interrupted("the run on the first machine was stopped")
        if code:
            raise WorkFailed("the run on the first machine failed", fix="see its output")
        return None

    def _receive(self, limit_s: float | None) -> dict[str, Any]:
        key = f"phi-scaffold/{self._trainings}"
        deadline = None if limit_s is None else time.monotonic() + limit_s
        try:
            while not self._store.check([key]):
                if deadline is not None and time.monotonic() > deadline:
                    return {}
                time.sleep(_POLL_S)
            self._trainings += 1
            message: dict[str, Any] = json.loads(self._store.get(key))
        except RuntimeError as e:
            raise WorkFailed("the run on the first machine broke off", fix="see its output") from e
        return message


def _left(rank: int) -> str:
    return f"phi-scaffold/left/{rank}"


def shared_request(training: SharedTraining, project: ProjectFolder) -> Path:
    """Return the file of the training's request, once it is visible on this machine.

    Raises:
        UsageError: It is not in the project's folder.
        WorkFailed: The machines do not share that folder.
    """
    request = Path(training.request)
    if not request.resolve().is_relative_to(project.root.resolve()):
        raise UsageError(
            f"{request} is not in {project.root}", fix="mount the project at the same path on all machines"
        )
    deadline = time.monotonic() + _SHARED_S
    while not (request.is_file() and file_digest(request) == training.digest):
        if time.monotonic() > deadline:
            raise WorkFailed(
                f"{request} of the first machine is not visible on this one",
                fix="keep the project on a file system that all machines share",
            )
        time.sleep(_POLL_S)
    return request
