"""A cluster for all tests of this folder, and `phi-scaffold` as a process on its login node."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Result
from tests.factory import tiny_project
from tests.slurm.cluster import Cluster, missing, running

MUST = "PHI_SCAFFOLD_SLURM"  # environment variable: tests that find no Slurm fail
SOURCE = Path(__file__).resolve().parents[2] / "scaffolder"
LIMIT_S = 120.0


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """Two nodes. Tests are skipped, saying why, where Slurm is not installed."""
    needs = missing() if os.name == "posix" and os.geteuid() == 0 else ["root"]
    if needs:
        reason = f"needs {', '.join(needs)}: apt-get install slurm-wlm munge, as root"
        (pytest.fail if os.environ.get(MUST) else pytest.skip)(reason)
    with tempfile.TemporaryDirectory(prefix="slurm-") as folder, running(Path(folder)) as started:
        yield started


@dataclass(frozen=True)
class Project:
    """A project on the cluster's disk, with a space in its path."""

    folder: Path
    cluster: Cluster

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start `phi-scaffold` in the project."""
        return subprocess.Popen(
            [sys.executable, "-m", "phi_scaffold", *arguments],
            cwd=self.folder,
            env={**os.environ, **self.cluster.environment, "PYTHONPATH": str(SOURCE), "COLUMNS": "200"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str) -> Result:
        """Run `phi-scaffold` in the project."""
        return finished(self.start(*arguments))

    def log(self, job: str) -> str:
        file = self.folder / "gen-model" / "remote" / f"slurm-{job}.log"
        return file.read_text() if file.is_file() else ""

    def wait_for_log(self, job: str, *texts: str) -> None:
        """Wait until a line of the job's log has all of these texts."""
        wait(lambda: any(all(text in line for text in texts) for line in self.log(job).splitlines()), self.cluster)

    def job(self) -> str:
        """Return the number of the last job that was submitted from the project."""
        return max((path.parent.name for path in self.folder.glob("gen-model/remote/*/record.json")), key=int)


def finished(process: subprocess.Popen[str]) -> Result:
    """Wait for the end of a command."""
    try:
        out, err = process.communicate(timeout=LIMIT_S)
    finally:
        process.kill()
    return Result(process.returncode, out, err)


def wait(ready: Callable[[], bool], cluster: Cluster) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not ready():
        assert time.monotonic() < deadline, cluster.logs()
        time.sleep(0.1)


NewProject = Callable[..., Project]


@pytest.fixture
def new_project(cluster: Cluster, tiny_phi3: Path, tmp_path: Path) -> NewProject:
    """Creates a tiny project; keyword arguments change its training. Jobs that a failed test leaves are canceled."""

    def make(**training: Any) -> Project:
        project = tiny_project(tmp_path / "my demo", tiny_phi3, **training)
        return Project(project.root, cluster)

    return make


@pytest.fixture(autouse=True)
def no_job_left(cluster: Cluster) -> Iterator[None]:
    """Cancel the jobs that a failed test leaves: the next one needs the nodes."""
    yield
    cluster.call("scancel", "--user=root")
    wait(lambda: cluster.call("sinfo", "--noheader", "--format=%t %D").split() == ["idle", "2"], cluster)
