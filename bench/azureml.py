"""A submission to Azure ML: seconds before its first request, and files and bytes of its snapshot, at the stand-in of the tests.

    python bench/azureml.py PROJECT [ROUNDS]

PROJECT is an emitted project, of which a copy without its models is submitted with `run --on azureml --detach`; its base model must
be one that a job downloads. The environment of Azure's client is that of tests/azure, created at the first call. The first round
reads cold files; seconds of a busy machine say little, and CPU seconds more.
"""

# ruff: noqa: E402 (the folder of the tests comes first)
from __future__ import annotations

import json
import os
import resource
import shutil
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "scaffolder")]

from tests.azure.environment import azure_python
from tests.azure.projects import CLIENT, Shell, only_job
from tests.azure.standin import Standin

LARGE = shutil.ignore_patterns("gen-model", "model-cache", ".venv", ".git", "__pycache__")


def main() -> None:
    project, rounds = Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 3
    python = azure_python("newest")
    print("round  first request s  process s  process CPU s  requests  files  bytes")
    with tempfile.TemporaryDirectory() as folder, Standin(Path(folder, "azure"), python) as azure:
        for number in range(1, rounds + 1):
            azure.cloud.reset()
            azure.cloud.has_machines = False
            copy = Path(folder, str(number), "demo")
            shutil.copytree(project, copy, ignore=LARGE)
            add_azureml(copy / "fine-tuning" / "olive-config.json")
            used, started = cpu_s(), time.monotonic()
            done = Shell(python, azure.environment).run(copy, "run", "fetch", "--on", "azureml", "--detach")
            ended = time.monotonic()
            if done.code:
                raise SystemExit(done.err)
            used = cpu_s() - used
            snapshot = azure.cloud.snapshot(only_job(azure.cloud))
            first, requests = azure.cloud.requests[0].at - started, len(azure.cloud.requests)
            size = sum(map(len, snapshot.values()))
            print(
                f"{number:5}{first:17.1f}{ended - started:11.1f}{used:15.1f}{requests:10}{len(snapshot):7}{size:7,}",
                flush=True,
            )


def add_azureml(config: Path) -> None:
    """Add a workspace and a system to a config."""
    content = json.loads(config.read_text(encoding="utf-8"))
    system = {"type": "AzureML", "aml_compute": "gpu-cluster", "accelerators": [{"device": "gpu"}]}
    content.setdefault("systems", {})["aml"] = system
    config.write_text(json.dumps(content | {"azureml_client": CLIENT}), encoding="utf-8")


def cpu_s() -> float:
    """Return the CPU seconds of the child processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    main()
