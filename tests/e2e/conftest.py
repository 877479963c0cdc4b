"""A default project on a real model, out of the built wheel, set up and run once for all tests."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def clean_environment() -> dict[str, str]:
    """The variables of a user's shell, outside this environment and without the limits of `tests/conftest.py`."""
    limits = ("OMP_NUM_THREADS", "PHI_SCAFFOLD_CORES", "TOKENIZERS_PARALLELISM", "GLIBC_TUNABLES")
    ours = ("PYTHONPATH", "VIRTUAL_ENV", "HF_HUB_OFFLINE", *limits)
    return {k: v for k, v in os.environ.items() if k not in ours}


def sh(*command: str | Path, cwd: Path | None = None, **environment: str) -> str:
    """Runs a command as a user would; its stdout."""
    done = subprocess.run(
        [str(c) for c in command], cwd=cwd, env=clean_environment() | environment, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{command} ended with {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


def share_libraries(environment: Path) -> None:
    """Create the project's environment so that pip finds the pinned libraries of this one, and installs the wheel alone.

    `make_environment.py` has downloaded and installed them with the same setup script; a second time takes minutes.
    """
    venv.create(environment, with_pip=True)
    packages = sh(
        environment / "bin" / "python", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"
    ).strip()
    Path(packages, "libraries.pth").write_text(f"{sysconfig.get_path('purelib')}\n", encoding="utf-8")


@pytest.fixture(scope="session")
def light(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of an environment with the wheel alone, as `pip install phi-scaffold` makes it."""
    folder = tmp_path_factory.mktemp("light")
    sh(sys.executable, "-m", "build", "--wheel", "--outdir", folder / "dist", ROOT)
    venv.create(folder / "venv", with_pip=True)
    binaries = folder / "venv" / "bin"
    sh(binaries / "python", "-m", "pip", "install", "--quiet", next((folder / "dist").glob("*.whl")))
    return binaries


@pytest.fixture(scope="session")
def project(light: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A default project in a path with a blank and other letters, set up and run."""
    folder = tmp_path_factory.mktemp("pläces and blanks") / "my mood"
    sh(light / "phi-scaffold", "new", folder, "--yes")
    assert "site-packages" in sh(light / "python", "-c", "import phi_scaffold; print(phi_scaffold.__file__)")
    share_libraries(folder / ".venv")
    sh("bash", folder / "setup" / "setup.sh", "--with", "web,serve,sweep", PYTHON=sys.executable)
    events = [json.loads(line) for line in sh(light / "phi-scaffold", "run", "--json", cwd=folder).splitlines()]
    finished = {e["stage"]: e for e in events if e["event"] == "stage-finished"}
    assert list(finished) == ["fetch", "finetune", "merge", "export", "evaluate"]
    assert events[-1]["event"] == "run-finished"
    return folder
