"""A short run of bench/soak.py: clients that leave, kills of the models' process, and the end."""

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
