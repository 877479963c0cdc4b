"""A job as the YAML of Azure ML: what `--dry-run` prints is what is submitted."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from phi_runtime.config.reading import write
from phi_runtime.core.remote_job import JOB
from phi_runtime.remote.job import Environment, Input, RemoteJob, Step, job_label
from phi_runtime.remote.package import FOLDER, UNPACK
from phi_runtime.remote.snapshot import content_digest
from phi_runtime.remote.worker import SECRET_VARIABLES

JOB_FILE, CONDA_FILE, SNAPSHOT = "job.yaml", "conda.yaml", "snapshot"
OUTPUT = "gen_model"
FROM = "gen_model_of_step_before"
_SCHEMA = "https://azuremlschemas.azureedge.net/latest/{}Job.schema.json"
_INPUT_TYPES = {"file": "uri_file", "folder": "uri_folder", "model": "custom_model", "mlflow": "mlflow_model"}


def render(job: RemoteJob) -> dict[str, str]:
    """Return the files of a job by name: job.yaml, and the conda file that it names."""
    files = {JOB_FILE: write.render(job_document(job), {}, "yaml")}
    for step in job.steps:
        if step.environment.conda:
            files[conda_name(job, step)] = write.render(step.environment.conda, {}, "yaml")
    return files


def conda_name(job: RemoteJob, step: Step) -> str:
    """Return the name of the conda file of a step: `conda.yaml`, or `conda-STEP.yaml` where steps have different ones."""
    same = all(other.environment.conda == step.environment.conda for other in job.steps if other.environment.conda)
    return CONDA_FILE if same else f"conda-{step.name}.yaml"


def job_document(job: RemoteJob) -> dict[str, Any]:
    """Return the content of job.yaml: a command job, or a pipeline job if there are several steps."""
    head = {"name": job.name, "display_name": job.project.name, "experiment_name": job.project.name}
    tags = {"tags": dict(job.tags)}
    if len(job.steps) == 1:
        return {"$schema": _SCHEMA.format("command"), "type": "command", **head, **_step(job, job.steps[0]), **tags}
    jobs = {step.name: {"type": "command", **_step(job, step)} for step in job.steps}
    inputs = {each.name: _input(job, each) for each in job.inputs}
    outputs = {OUTPUT: _output(job, job.steps[-1])}
    content = {**({"inputs": inputs} if inputs else {}), "outputs": outputs, "jobs": jobs}
    return {"$schema": _SCHEMA.format("pipeline"), "type": "pipeline", **head, **content, **tags}


def command_line(job: RemoteJob, step: Step) -> str:
    """Return the command of a step: unpack phi-scaffold, and run its worker."""
    words = ["python", "-m", "phi_runtime.remote.worker"]
    for each in step.inputs:
        words += ["--input", _in_quotes(f"{each.place}=${{{{inputs.{each.name}}}}}")]
    if step.after:
        words += ["--from", _in_quotes(f"${{{{inputs.{FROM}}}}}")]
    words += ["--folder", shlex.quote(job.output), "--output", _in_quotes(f"${{{{outputs.{OUTPUT}}}}}")]
    words += ["--", *map(shlex.quote, step.arguments)]
    return f"{shlex.join(UNPACK)} && PYTHONPATH={FOLDER} {' '.join(words)}"


def _in_quotes(text: str) -> str:
    """Return `text` for a shell; Azure ML replaces `${{…}}` in it before a shell reads it."""
    return '"' + "".join(f"\\{c}" if c in '"\\`' else c for c in text) + '"'


def _step(job: RemoteJob, step: Step) -> dict[str, Any]:
    is_pipeline = len(job.steps) > 1
    machines = step.machines
    inputs = {
        each.name: f"${{{{parent.inputs.{each.name}}}}}" if is_pipeline else _input(job, each) for each in step.inputs
    }
    if step.after:
        inputs[FROM] = f"${{{{parent.jobs.{step.after}.outputs.{OUTPUT}}}}}"
    is_last = step is job.steps[-1]
    output = f"${{{{parent.outputs.{OUTPUT}}}}}" if is_pipeline and is_last else _output(job, step)
    variables = {JOB: job.name, "PYTHONUNBUFFERED": "1"}
    variables |= {SECRET_VARIABLES[name]: address for name, address in step.secrets.items()}
    resources = {"instance_count": machines.count, **machines.resources}
    document: dict[str, Any] = {
        "code": SNAPSHOT,
        "command": command_line(job, step),
        "environment": _environment(job, step, step.environment),
        "compute": f"azureml:{machines.compute}",
        "resources": resources,
    }
    if (
        machines.count > 1
    ):  # the command starts once on each machine, and its processes find each other by these variables
        document["distribution"] = {"type": "pytorch", "process_count_per_instance": 1}
    if inputs:
        document["inputs"] = inputs
    document |= {"outputs": {OUTPUT: output}, "environment_variables": variables}
    if step.secrets:
        document["identity"] = {"type": "managed"}
    if job.timeout_s:
        document["limits"] = {"timeout": job.timeout_s}
    return document


def _input(job: RemoteJob, each: Input) -> dict[str, str]:
    address = each.address or "azureml:{}:{}".format(*asset_of(job, each))
    return {"type": _INPUT_TYPES[each.kind], "path": address, "mode": "download" if each.kind != "file" else "ro_mount"}


def asset_of(job: RemoteJob, each: Input) -> tuple[str, str]:
    """Return name and version of the data asset that `--upload` makes of a local input: the version is its content."""
    assert each.local is not None
    return f"{job_label(job.project)}-{each.name}".replace("_", "-"), content_digest(each.local)[:12]


def _output(job: RemoteJob, step: Step) -> dict[str, str]:
    folder = f"phi-scaffold/{job.name}/{step.name}" if len(job.steps) > 1 else f"phi-scaffold/{job.name}"
    path = f"azureml://datastores/{step.machines.store}/paths/{folder}/{OUTPUT}/"
    return {"type": "uri_folder", "path": path, "mode": "upload"}


def _environment(job: RemoteJob, step: Step, environment: Environment) -> str | Mapping[str, Any]:
    if environment.existing:
        return f"azureml:{environment.existing}"
    if environment.build:
        folder, dockerfile = environment.build
        return {"build": {"path": str(folder), "dockerfile_path": dockerfile}}
    conda = {"conda_file": conda_name(job, step)} if environment.conda else {}
    return {"image": environment.image, **conda}
