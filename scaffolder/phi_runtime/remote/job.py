"""A job for other machines as one plain value, which names no service and imports no client.

    RemoteJob                    the job: name, steps, files, tags, time limit
      steps: (Step, ...)         one command each, on one system; a later one starts from the gen-model/ of the step in `after`
        arguments                of `phi-scaffold`, in the folder of the project: ("run", "finetune", "--nproc", "2")
        environment              Environment: image, conda file or pip pins
        system                   Machines: name of the compute, number of machines, processes on each, device, resources
        inputs: (Input, ...)     data and models that are not in the snapshot, with their place in the project
        secrets                  addresses of the secrets that the command reads
      snapshot                   snapshot.Snapshot: the files of the project that the job needs, and nothing else

`plan.plan_job` creates it. An engine (engine.py) turns it into what its service reads: a YAML of Azure ML, an sbatch file. An engine
whose machines share the disk with this one runs `phi-scaffold ARGUMENTS` in `project`, and needs no snapshot; one that sends the
files runs `worker_command`, which places inputs, reads secrets, runs the same arguments, and copies gen-model/ to the output.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from phi_runtime.core.artifacts import digest
from phi_runtime.remote.snapshot import Snapshot, content_digest

InputKind = Literal["file", "folder", "model", "mlflow"]
"""`model` is one of a registry or workspace; `mlflow` one in the format of MLflow, in which the weights are in a folder below it."""


@dataclass(frozen=True)
class Input:
    """Data or a model that the job reads, and that is not in its snapshot.

    Attributes:
        name: Identifier, such as `train_data`.
        address: Address that the service reads (`azureml://…`); "" for a file or folder of this machine.
        place: Path in the project at which the job finds it, with forward slashes.
        local: The file or folder of this machine that is uploaded for it; None if it is there already.
    """

    name: str
    kind: InputKind
    address: str
    place: str
    local: Path | None = None


@dataclass(frozen=True)
class Environment:
    """The software of a job: an image, and in it Python with the tested versions of all libraries.

    Attributes:
        image: Container image; "" for none.
        existing: Environment that the service has already, as `name:version` or `name@label`, instead of all else.
        build: Folder with a Dockerfile, and the name of that file, instead of `image`.
        conda: Content of the conda file.
        pins: Requirements with exact versions, one a line, as pip reads them. They are in `conda` too.
    """

    image: str = ""
    existing: str = ""
    build: tuple[Path, str] | None = None
    conda: Mapping[str, Any] = field(default_factory=dict)
    pins: tuple[str, ...] = ()


@dataclass(frozen=True)
class Machines:
    """The machines of a step.

    Attributes:
        compute: Name of the compute cluster, or partition.
        device: "gpu" or "cpu".
        count: Number of machines.
        processes: Processes that train together on each machine.
        resources: More resources, in the format of the service.
        store: Name of the datastore for outputs.
    """

    compute: str
    device: str
    count: int = 1
    processes: int = 1
    resources: Mapping[str, Any] = field(default_factory=dict)
    store: str = ""

    @property
    def arguments(self) -> tuple[str, ...]:
        """The arguments of `phi-scaffold run` for these processes."""
        return ("--nproc", str(self.processes)) if self.processes > 1 else ()


@dataclass(frozen=True)
class Step:
    """One command of a job, on the machines of one system.

    Attributes:
        name: Identifier, such as `train`.
        arguments: Arguments of `phi-scaffold`.
        stages: Stages of the workflow that it updates.
        secrets: Addresses of secrets, by the environment variable that the worker sets to their value, such as
            `{"HF_TOKEN": "https://VAULT.vault.azure.net/secrets/hf-token"}`. A secret itself is in no field of a job.
        after: Name of the step whose gen-model/ it starts from; "" for none.
    """

    name: str
    arguments: tuple[str, ...]
    stages: tuple[str, ...]
    machines: Machines
    environment: Environment
    inputs: tuple[Input, ...] = ()
    secrets: Mapping[str, str] = field(default_factory=dict)
    after: str = ""


@dataclass(frozen=True)
class RemoteJob:
    """A job for other machines.

    Attributes:
        name: Name at the service: the project's, and the start of `key`. The same work has the same name everywhere, so that a
            service that has a job of this name has done the work, or is doing it.
        project: Folder of the project.
        output: Folder of the project that is downloaded: gen-model, or gen-model/TASK.
        timeout_s: Time limit in seconds; None for that of the service.
    """

    name: str
    project: Path
    steps: tuple[Step, ...]
    snapshot: Snapshot
    output: str = "gen-model"
    tags: Mapping[str, str] = field(default_factory=dict)
    timeout_s: int | None = None

    @property
    def inputs(self) -> tuple[Input, ...]:
        """The inputs of all steps, each once."""
        return tuple(dict.fromkeys(each for step in self.steps for each in step.inputs))

    @property
    def secrets(self) -> dict[str, str]:
        """The addresses of the secrets that its steps read."""
        return {name: address for step in self.steps for name, address in step.secrets.items()}


def job_label(project: Path) -> str:
    """Return the start of the names of the jobs of a project, from the name of its folder."""
    return f"phi-{re.sub(r'[^a-z0-9]+', '-', project.name.lower()).strip('-')[:40] or 'project'}"


def job_key(steps: tuple[Step, ...], snapshot: Snapshot) -> str:
    """Return the digest of what a job computes from: its files, commands, software and inputs, and not where it is sent from."""
    parts = [
        [
            step.name,
            step.arguments,
            step.after,
            _software(step.environment),
            [step.machines.compute, step.machines.count, step.machines.processes],
            [[each.name, each.address, each.place, each.local and content_digest(each.local)] for each in step.inputs],
        ]
        for step in steps
    ]
    return digest([parts, snapshot.digests])


def _software(environment: Environment) -> list[object]:
    """Return what an environment is built from; the user's own files, which no snapshot has, by their content."""
    own: list[object] = []
    if environment.conda and not environment.pins:
        own.append(environment.conda)
    if environment.build:
        folder, dockerfile = environment.build
        own += [dockerfile, content_digest(folder)]
    return [environment.image, environment.existing, environment.pins, *own]
