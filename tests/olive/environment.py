"""An environment with Microsoft Olive, apart from ours: PHI_OLIVE_PYTHON, or build/olive-venv, made once from the registry.

    python -m tests.olive.environment

makes it ahead of the tests.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path
from typing import Any

from tests.layered_environment import BUILD, NoEnvironment, named_or_made

OLIVE = "0.13.0"
# `requests` is undeclared and needed. onnxruntime-genai is not: no model is built.
OLIVE_PACKAGES = (f"olive-ai=={OLIVE}", "datasets==5.2.0", "requests")
# Of the tests' environment, as they are there: pip fails rather than fetch a build for CUDA or another version.
SHARED = ("torch", "transformers", "peft", "accelerate", "bitsandbytes", "onnxruntime")
PROBE = Path(__file__).with_name("probe.py")


def olive_python() -> Path:
    """The Python of an environment with Olive. Raises NoEnvironment."""
    return named_or_made("PHI_OLIVE_PYTHON", BUILD / "olive-venv", *OLIVE_PACKAGES, *_pins())


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
        raise NoEnvironment(f"this environment has no {error.name}, which Olive's is to take from it") from error


if __name__ == "__main__":
    started = time.monotonic()
    print(f"{olive_python()} after {time.monotonic() - started:.0f} s", file=sys.stderr)
