"""Short runs of bench/soak.py (clients that leave, kills of the models' process, the end) and bench/fuzz_serve.py."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from phi_runtime.core.project import ProjectFolder

SOAK = Path(__file__).resolve().parents[3] / "bench" / "soak.py"


@pytest.mark.slow
def test_clients_that_leave_and_kills_leave_a_server_that_answers_and_ends(project: ProjectFolder) -> None:
    command = [sys.executable, SOAK, project.gen_model / "onnx", "--minutes", "0.4", "--kills", "2", "--json"]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=200, check=True)
    figures = json.loads(done.stdout)
    assert set(figures["counts"]) <= {
        "200",
        "429",
        "499",
        *(f"{kind} at a kill or the end" for kind in ("500", "503", "broken")),
    }
    assert figures["counts"]["200"] > 20
    assert (figures["exit_code"], figures["tracebacks"], figures["hanging_clients"]) == (0, 0, 0)
    assert figures["memory_mb"]["worker"]["growth_percent"] < 30


@pytest.mark.slow
def test_generated_bodies_get_no_500_and_none_hangs(project: ProjectFolder) -> None:
    command = [sys.executable, SOAK.with_name("fuzz_serve.py"), project.gen_model / "onnx", "--bodies", "200", "--json"]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=280, check=True)
    figures = json.loads(done.stdout)
    assert (figures["failures"], figures["tracebacks"]) == ([], 0)
    assert sum(figures["counts"].values()) >= 200
