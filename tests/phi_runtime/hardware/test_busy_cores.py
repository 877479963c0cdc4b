"""The number of threads while other programs compute."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from phi_runtime.hardware import busy_cores
from phi_runtime.hardware.busy_cores import AdaptedThreads, free_threads
from phi_runtime.hardware.device import CORES, OMP_THREADS, machine_cores


@pytest.fixture(autouse=True)
def threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No limit of the user, and the number of threads as it was, afterwards."""
    import torch

    for name in (CORES, OMP_THREADS):
        monkeypatch.delenv(name, raising=False)
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("others", "cpus", "cores", "expected"),
    [
        (0.0, 2, 2, 2),
        (0.3, 2, 2, 2),
        (0.5, 2, 2, 1),  # a busy program that shares a core with one of our threads
        (1.0, 2, 2, 1),
        (2.0, 2, 2, 1),
        (1.0, 8, 8, 7),
        (3.5, 8, 8, 4),
        (40.0, 64, 8, 8),  # a container's limit of 8 cores
        (60.0, 64, 8, 4),
    ],
)
def test_the_free_cores_are_used(others: float, cpus: int, cores: int, expected: int) -> None:
    assert free_threads(others, cpus, cores) == expected


@pytest.mark.skipif(machine_cores() < 2, reason="needs two cores")
def test_while_other_programs_compute_fewer_threads_are_used_and_afterwards_all_again() -> None:
    import torch

    lines: list[str] = []
    torch.set_num_threads(machine_cores())
    adapted = AdaptedThreads(lines.append)
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(machine_cores())]
    try:
        deadline = time.monotonic() + 60
        while torch.get_num_threads() == machine_cores() and time.monotonic() < deadline:
            time.sleep(0.2)
            adapted.adapt()
        assert torch.get_num_threads() < machine_cores()
    finally:
        for process in busy:
            process.kill()
            process.wait()
    assert len(lines) == 1
    assert f"--threads {machine_cores()}" in lines[0]
    adapted.close()
    assert torch.get_num_threads() == machine_cores()


def test_the_load_is_measured_without_this_program_and_reported_once(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    now = [0.0]
    seconds = iter([(0.0, 0.0, 4), (8.0, 8.0, 4), (15.0, 12.0, 4), (19.0, 16.0, 4), (27.0, 20.0, 4)])
    monkeypatch.setattr(busy_cores, "usable_cores", lambda: 4)
    monkeypatch.setattr(busy_cores, "_probe", lambda: lambda: next(seconds))
    monkeypatch.setattr(busy_cores.time, "monotonic", lambda: now[0])
    torch.set_num_threads(4)
    lines: list[str] = []
    adapted = AdaptedThreads(lines.append)
    found = []
    for _ in range(4):
        now[0] += 2
        adapted.adapt()
        adapted.adapt()  # within the same second: not measured
        found.append(torch.get_num_threads())
    assert found == [4, 2, 4, 2]  # others use 0, 1.5, 0 and 2 of 4 cores
    assert len(lines) == 1
    assert "other programs use 1.5 of 4 cores: computing with 2 of 4 threads" in lines[0]


@pytest.mark.parametrize("name", [CORES, OMP_THREADS])
def test_a_number_of_threads_that_someone_has_set_is_kept(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    import torch

    monkeypatch.setenv(name, "2")
    monkeypatch.setattr(busy_cores, "usable_cores", lambda: 2)
    monkeypatch.setattr(busy_cores, "_probe", lambda: pytest.fail("nothing is measured"))
    torch.set_num_threads(2)
    AdaptedThreads().adapt()
    assert torch.get_num_threads() == 2
