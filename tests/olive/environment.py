"""An environment with Microsoft Olive, apart from ours: PHI_OLIVE_PYTHON, or build/olive-venv, made once from the registry.

    python -m tests.olive.environment

makes it ahead of the tests. It sees the libraries of the tests' own environment and adds what else Olive needs, which saves
minutes and gigabytes; torch above all is never downloaded.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import tempfile
import time
import venv
from importlib import metadata
from pathlib import Path
from typing import Any

from filelock import FileLock

OLIVE = "0.13.0"
# `requests` is undeclared and needed. onnxruntime-genai is not: no model is built.
OLIVE_PACKAGES = (f"olive-ai=={OLIVE}", "datasets==5.2.0", "requests")
# Of the tests' environment, as they are there: pip fails rather than fetch a build for CUDA or another version.
SHARED = ("torch", "transformers", "peft", "accelerate", "bitsandbytes", "onnxruntime")
FOLDER = Path(__file__).resolve().parents[2] / "build" / "olive-venv"
PROBE = Path(__file__).with_name("probe.py")


class NoOlive(Exception):
    """There is no environment with Olive, and none can be made; the message says why."""


def olive_python() -> Path:
    """The Python of an environment with Olive. Raises NoOlive."""
    if not (named := os.environ.get("PHI_OLIVE_PYTHON")):
        return make(FOLDER)
    if not Path(named).is_file():
        raise NoOlive(f"PHI_OLIVE_PYTHON names {named}, which does not exist")
    return Path(named)


def make(folder: Path) -> Path:
    """Makes the environment in `folder` unless it is there as it should be, and returns its Python. Raises NoOlive."""
    scripts, name = ("Scripts", "python.exe") if os.name == "nt" else ("bin", "python")
    python, installed = folder / scripts / name, folder / "installed.txt"
    libraries = sysconfig.get_path("purelib")
    requirements = (*OLIVE_PACKAGES, *_pins())
    content = "\n".join((libraries, *requirements))
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.parent / f"{folder.name}.lock"):
        if not installed.is_file() or installed.read_text(encoding="utf-8") != content:
            venv.create(folder, with_pip=True, clear=True)
            _look_behind(python, libraries)
            _pip(python, *requirements)
            installed.write_text(content, encoding="utf-8")
    return python


def ask(python: Path, request: dict[str, Any]) -> dict[str, Any]:
    """What Olive says to a request, see probe.py. Raises RuntimeError when the probe itself fails."""
    with tempfile.TemporaryDirectory() as home:
        # Olive writes its telemetry below the home folder, even if telemetry is off.
        apart = {"HOME": home, "USERPROFILE": home, "HF_HOME": home, "OLIVE_DISABLE_TELEMETRY": "1"}
        offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
        done = subprocess.run(
            [str(python), "-P", str(PROBE)],
            input=json.dumps(request),
            env=os.environ | apart | offline,
            capture_output=True,
            text=True,
            encoding="utf-8",
        )
    if done.returncode:
        raise RuntimeError(f"the probe of Olive ended with {done.returncode}:\n{done.stderr[-4000:]}")
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def _pins() -> list[str]:
    try:
        return [f"{name}=={metadata.version(name)}" for name in SHARED]
    except metadata.PackageNotFoundError as error:
        raise NoOlive(f"this environment has no {error.name}, which Olive's is to take from it") from error


def _look_behind(python: Path, libraries: str) -> None:
    """Puts `libraries` behind the packages of the new environment, where pip counts what is in them as installed."""
    find = [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    packages = subprocess.run(find, check=True, capture_output=True, text=True).stdout.strip()
    Path(packages, "tests-environment.pth").write_text(f"{libraries}\n", encoding="utf-8")


def _pip(python: Path, *requirements: str) -> None:
    install = [
        str(python),
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-compile",
        "--disable-pip-version-check",
        "--retries",
        "2",
    ]
    done = subprocess.run([*install, *requirements], capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["pip said nothing"])[-1]
        raise NoOlive(f"pip could not install olive-ai {OLIVE}: {last}")


if __name__ == "__main__":
    started = time.monotonic()
    print(f"{olive_python()} after {time.monotonic() - started:.0f} s", file=sys.stderr)
