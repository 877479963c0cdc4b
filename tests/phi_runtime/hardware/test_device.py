"""The number of cores to compute with."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from phi_runtime.hardware import device
from phi_runtime.hardware.device import CORES, OMP_THREADS, inherited_share, machine_cores, usable_cores
from phi_runtime.workers.process import Worker
from tests.conftest import Cli, MakeProject

VARIABLES = (CORES, OMP_THREADS, "RAYON_NUM_THREADS")


@pytest.fixture(autouse=True)
def eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "machine_cores", lambda: 8)
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("share", "omp", "cores"),
    [
        ("", "", 8),
        ("", "3", 3),
        ("", "3,2", 3),
        ("", "99", 8),
        ("2", "3", 2),
        ("0", "3", 3),
        ("x", "-1", 8),
        ("", "²", 8),
    ],
)
def test_the_users_omp_num_threads_counts_unless_the_process_has_a_share(
    monkeypatch: pytest.MonkeyPatch, share: str, omp: str, cores: int
) -> None:
    monkeypatch.setenv(CORES, share)
    monkeypatch.setenv(OMP_THREADS, omp)
    assert usable_cores() == cores


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"cpu.max": "150000 100000"}, 2),
        ({"cpu.max": "max 100000"}, 64),
        ({"cpu/cpu.cfs_quota_us": "100000", "cpu/cpu.cfs_period_us": "100000"}, 1),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 64),
        ({}, 64),
    ],
)
def test_the_limit_of_a_container_counts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, files: dict[str, str], cores: int
) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(device.os, "sched_getaffinity", lambda _: set(range(64)), raising=False)
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"{text}\n")
    assert machine_cores(tmp_path) == cores


def test_the_flag_beats_the_variable_in_this_process_and_in_workers(
    make_project: MakeProject, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in VARIABLES:
        monkeypatch.setenv(name, "3")  # restored after the test
    monkeypatch.delenv(CORES)
    monkeypatch.setattr("phi_scaffold.cli.options.machine_cores", lambda: 8)
    assert (usable_cores(), inherited_share()) == (3, {})
    project = make_project()
    assert cli("run", "--dry-run", "--no-step", "--threads", "5", "--project", project.root).code == 0
    assert usable_cores() == 5
    code = f"import json, os; print(json.dumps({{name: os.environ.get(name) for name in {VARIABLES}}}))"
    with Worker([sys.executable, "-c", code], "the work") as worker:
        assert worker.receive() == dict.fromkeys(VARIABLES, "5")
    many = cli("run", "--threads", "9", "--json", "--project", project.root)
    assert many.code == 2
    assert json.loads(many.out)["fix"] == "use at most --threads 8"
