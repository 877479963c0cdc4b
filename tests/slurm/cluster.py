"""A Slurm cluster of two nodes on this machine, with its own munge key and ports: from Debian's packages, as root."""

from __future__ import annotations

import os
import platform
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

PROGRAMS = ("slurmctld", "slurmd", "sbatch", "munged")

_CONF = """\
ClusterName=phi
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
SlurmctldPort={ports[0]}
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=1,sched_interval=1
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=1 State=UNKNOWN
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=1 State=UNKNOWN
PartitionName=debug Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


@dataclass(frozen=True)
class Cluster:
    """A running cluster. `environment` lets the programs of Slurm find it."""

    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        return {"SLURM_CONF": str(self.folder / "slurm.conf")}

    def call(self, *command: str) -> str:
        """Run a program of Slurm and return what it printed."""
        done = subprocess.run(
            command, env={**os.environ, **self.environment}, capture_output=True, text=True, check=True
        )
        return done.stdout

    def field(self, job: str, name: str) -> str:
        """Return a field of `scontrol show job`."""
        words = self.call("scontrol", "show", "job", "--oneliner", job).split()
        return next(word.partition("=")[2] for word in words if word.startswith(f"{name}="))

    def logs(self) -> str:
        return "\n".join(f"== {log.name}\n{log.read_text()[-2000:]}" for log in sorted(self.folder.glob("*.log")))


def missing() -> list[str]:
    """Return the programs that a cluster needs and this machine lacks."""
    return [name for name in PROGRAMS if shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin") is None]


@contextmanager
def running(folder: Path) -> Iterator[Cluster]:
    """Start a cluster whose files are in `folder`, whose path must be short: a socket is in it."""
    folder.mkdir(mode=0o755, exist_ok=True)
    (folder / "state").mkdir()
    key = folder / "munge.key"
    key.write_bytes(secrets.token_bytes(1024))
    key.chmod(0o600)
    conf = folder / "slurm.conf"
    conf.write_text(_CONF.format(host=platform.node().partition(".")[0], folder=folder, ports=_free_ports(3)))
    cluster = Cluster(folder)
    files = {name: str(folder / f"munge.{name}") for name in ("socket", "pid", "log", "seed")}
    munge = [f"--{name}{'' if name == 'socket' else '-file'}={file}" for name, file in files.items()]
    daemons = [
        ["munged", "--foreground", "--force", f"--key-file={key}", *munge],
        ["slurmctld", "-D", "-f", str(conf)],
        *(["slurmd", "-D", "-N", node, "-f", str(conf)] for node in ("n1", "n2")),
    ]
    path = f"{os.environ['PATH']}:/usr/sbin"
    started: list[subprocess.Popen[bytes]] = []
    try:
        for command in daemons:
            with (folder / f"{command[0]}.out").open("ab") as out:
                started.append(
                    subprocess.Popen(
                        command, env={**os.environ, "PATH": path}, stdin=subprocess.DEVNULL, stdout=out, stderr=out
                    )
                )
            if command[0] == "munged":
                _wait(Path(files["socket"]).exists, cluster)
        _wait(lambda: cluster.call("sinfo", "--noheader", "--format=%t %D").split() == ["idle", "2"], cluster)
        yield cluster
    finally:
        for daemon in reversed(started):
            daemon.terminate()
        for daemon in started:
            try:
                daemon.wait(20)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()


def _wait(ready, cluster: Cluster) -> None:  # type: ignore[no-untyped-def]
    deadline = time.monotonic() + 60
    while True:
        try:
            if ready():
                return
        except subprocess.CalledProcessError:
            pass
        assert time.monotonic() < deadline, cluster.logs()
        time.sleep(0.2)


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()
