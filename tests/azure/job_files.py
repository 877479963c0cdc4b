"""Job files of Azure ML with a small program, for tests of the client."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

PROGRAM = """\
import os, pathlib, sys, time
rows, model, *flags = sys.argv[1:]
print("rows", pathlib.Path(rows).read_text().strip(), "rank", os.environ.get("RANK", "-"), flush=True)
pathlib.Path(model, "adapter.bin").write_bytes(b"adapter of " + pathlib.Path(rows).read_bytes())
if "wait" in flags:
    time.sleep(60)
sys.exit(3 if "fail" in flags else 0)
"""
ROWS = "azureml://datastores/workspaceblobstore/paths/data/rows.json"


def command_job(folder: Path, name: str, flags: str = "", **changes: Any) -> str:
    """Write a command job with its code into `folder`, and return its path."""
    job = {
        "$schema": "https://azuremlschemas.azureedge.net/latest/commandJob.schema.json",
        "type": "command",
        "name": name,
        "experiment_name": "phi",
        **_step("azureml:gpu-cluster", f"${{{{inputs.rows}}}} ${{{{outputs.model}}}} {flags}", folder),
        "inputs": {"rows": {"type": "uri_file", "path": ROWS}},
        "outputs": {"model": {"type": "uri_folder", "mode": "upload"}},
        **changes,
    }
    return _write(folder, job)


def pipeline_job(folder: Path, name: str) -> str:
    """Write a pipeline whose second node reads the output of the first."""
    train = {
        **_step("azureml:gpu-cluster", "${{inputs.rows}} ${{outputs.model}}", folder),
        "inputs": {"rows": "${{parent.inputs.rows}}"},
        "outputs": {"model": {"type": "uri_folder"}},
        "resources": {"instance_count": 2},
        "distribution": {"type": "pytorch", "process_count_per_instance": 1},
    }
    build = {
        **_step("azureml:arc-cluster", "${{inputs.model}}/adapter.bin ${{outputs.model}}", folder),
        "inputs": {"model": "${{parent.jobs.train.outputs.model}}"},
        "outputs": {"model": "${{parent.outputs.model}}"},
        "resources": {"instance_type": "gpuinstance"},
    }
    job = {
        "$schema": "https://azuremlschemas.azureedge.net/latest/pipelineJob.schema.json",
        "type": "pipeline",
        "name": name,
        "experiment_name": "phi",
        "inputs": {"rows": {"type": "uri_file", "path": ROWS}},
        "outputs": {"model": {"type": "uri_folder"}},
        "jobs": {"train": {"type": "command", **train}, "build": {"type": "command", **build}},
    }
    return _write(folder, job)


def _step(compute: str, arguments: str, folder: Path) -> dict[str, Any]:
    code = folder / "code"
    code.mkdir(parents=True, exist_ok=True)
    (code / "program.py").write_text(PROGRAM, encoding="utf-8")
    conda = {"name": "phi", "channels": ["conda-forge"], "dependencies": ["python=3.11", "pip"]}
    environment = {"image": "mcr.microsoft.com/azureml/openmpi4.1.0-ubuntu22.04", "conda_file": conda}
    return {"code": "code", "command": f"python program.py {arguments}", "environment": environment, "compute": compute}


def _write(folder: Path, job: dict[str, Any]) -> str:
    path = folder / f"{job['name']}.yml"
    path.write_text(yaml.safe_dump(job, sort_keys=False), encoding="utf-8")
    return str(path)
