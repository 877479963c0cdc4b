"""Files for clusters that this machine submits nothing to: SkyPilot, Hugging Face Jobs, Kubernetes with Kubeflow Trainer.

Each sets the project up as on any machine (setup/) and runs `phi-scaffold run`. None holds a token, or names a file that the run
does not read.
"""

from __future__ import annotations

import json
import shlex
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from phi_runtime.config.schema import Workflow
from phi_runtime.core.artifacts import write_text
from phi_runtime.core.errors import Conflict, UsageError
from phi_runtime.core.project import ProjectFolder
from phi_runtime.core.signed_text import is_edited, signed
from phi_runtime.remote.job import Environment, Machines, RemoteJob, Step, job_label
from phi_runtime.remote.plan import plan_job

SETUP = "setup"


@dataclass(frozen=True)
class ClusterFile:
    """A file for a cluster, and the commands that submit it, in the folder of the project."""

    path: Path
    text: str
    commands: tuple[str, ...]


def cluster_file(
    project: ProjectFolder,
    workflow: Workflow,
    kind: str,
    arguments: tuple[str, ...],
    stages: tuple[str, ...],
    processes: int,
) -> ClusterFile:
    """Return the file of `kind` (a key of `KINDS`) that runs `phi-scaffold ARGUMENTS`.

    Raises:
        UsageError: The project has no setup/, or the run reads files that may not leave this machine.
    """
    if not (project.root / SETUP / "setup.py").is_file():
        raise UsageError("the project has no setup/", fix="create one around the config: phi-scaffold new --from")
    machines = Machines("", workflow.host_device, 1, processes)
    step = Step("run", arguments, stages, machines, Environment())
    job = plan_job(project, workflow, [step], upload=True)
    if stored := [each.address for each in job.inputs if each.address]:
        raise UsageError(f"{stored[0]} can be read on Azure ML only", fix="name a local file or a model of the Hub")
    return KINDS[kind](job)


def write_cluster_files(project: ProjectFolder, files: Sequence[ClusterFile]) -> None:
    """Write `files` into the project.

    Raises:
        Conflict: The user has edited one of those that are there. None is written then.
    """
    for file in files:
        if is_edited(project.root / file.path):
            raise Conflict(f"{file.path} was edited", fix="delete it to write it again")
    for file in files:
        path = project.root / file.path
        path.parent.mkdir(exist_ok=True)
        write_text(path, file.text)


def _sky(job: RemoteJob) -> ClusterFile:
    """SkyPilot copies the named files into ~/project of a new machine: https://docs.skypilot.co/en/latest/reference/yaml-spec.html."""
    path, name, run = Path("remote/sky.yaml"), job_label(job.project), job.steps[0]
    gpus = run.machines.processes
    task = {
        "name": name,
        "resources": {"accelerators": f"L4:{gpus}"} if _on_gpu(job) else {"cpus": "8+", "memory": "32+"},
        "file_mounts": {f"~/project/{each}": f"./{each}" for each in _files(job)},
        "setup": f"cd ~/project\nbash setup/setup.sh --device {_device(job)}\n",
        "run": f"cd ~/project\n{shlex.join(_command(run.arguments))}\n",
    }
    launch = f"sky launch --cluster {name} {path.as_posix()}"
    commands = (launch, f"rsync -Pavz {name}:project/gen-model/ gen-model/", f"sky down {name}")
    head = _head(
        commands, "A gated model: add `secrets: {HF_TOKEN: null}`, and --secret HF_TOKEN to the first command."
    )
    return ClusterFile(path, signed(head + _yaml(task), comment="#"), commands)


def _kubernetes(job: RemoteJob) -> ClusterFile:
    """A TrainJob of Kubeflow Trainer 2.2 or later, whose nodes share a volume with the project."""
    path, name, run = Path("remote/k8s-trainjob.yaml"), job_label(job.project), job.steps[0]
    setup = f"bash setup/setup.sh --device {_device(job)}"
    script = f"""\
        cd /project
        if [ "${{PET_NODE_RANK:-0}}" != 0 ]; then until [ -f .venv/setup.json ]; do sleep 5; done; fi
        {setup}
        export RANK=${{PET_NODE_RANK:-0}} WORLD_SIZE=${{PET_NNODES:-1}}
        export MASTER_ADDR=${{PET_MASTER_ADDR:-localhost}} MASTER_PORT=${{PET_MASTER_PORT:-29500}}
        exec {shlex.join(_command(run.arguments))}
        """
    # Kubernetes would replace $(NAME) in a command.
    command = ["bash", "-ec", textwrap.dedent(script).replace("$(", "$$(")]
    gpus = {"nvidia.com/gpu": str(run.machines.processes)} if _on_gpu(job) else {}
    patch = {
        "volumes": [{"name": "project", "persistentVolumeClaim": {"claimName": name}}],
        "containers": [{"name": "node", "volumeMounts": [{"name": "project", "mountPath": "/project"}]}],
    }
    node = {"name": "node", "template": {"spec": {"template": {"spec": patch}}}}
    manifest = {
        "apiVersion": "trainer.kubeflow.org/v1alpha1",
        "kind": "TrainJob",
        "metadata": {"name": name},
        "spec": {
            "runtimeRef": {
                "name": "torch-distributed",
                "kind": "ClusterTrainingRuntime",
                "apiGroup": "trainer.kubeflow.org",
            },
            "trainer": {
                "image": "python:3.12",
                "numNodes": 1,
                "command": command,
                "resourcesPerNode": {"limits": {"cpu": "8", "memory": "32Gi", **gpus}},
            },
            "runtimePatches": [
                {
                    "manager": "phi-scaffold.io/run",
                    "trainingRuntimeSpec": {"template": {"spec": {"replicatedJobs": [node]}}},
                }
            ],
        },
    }
    commands = (f"kubectl create -f {path.as_posix()}",)
    claim = (
        f"The volume of the claim `{name}` holds the project; for several nodes (numNodes) it must be ReadWriteMany."
    )
    return ClusterFile(path, signed(_head(commands, claim) + _yaml(manifest), comment="#"), commands)


def _hf_jobs(job: RemoteJob) -> ClusterFile:
    """A uv script for Hugging Face Jobs, which reads the project from a private data set of the Hub and uploads gen-model/ to it."""
    path, name, run = Path("remote/hf_job.py"), job_label(job.project), job.steps[0]
    repository = f"USER/{name}"
    folders = {SETUP, *(each.place for each in job.inputs if each.kind != "file")}
    include = " ".join(f"--include {shlex.quote(f'{each}/*' if each in folders else each)}" for each in _files(job))
    gpus = run.machines.processes
    flavor = f"a10g-large{f'x{gpus}' if gpus > 1 else ''}" if _on_gpu(job) else "cpu-upgrade"  # see `hf jobs hardware`
    commands = (
        f"hf upload {repository} . --repo-type dataset --private {include}",
        f"hf jobs uv run --flavor {flavor} --timeout 4h --secrets HF_TOKEN {path.as_posix()} {repository}",
        f"hf download {repository} --repo-type dataset --include 'gen-model/*' --local-dir .",
    )
    text = f'''\
# /// script
# requires-python = ">=3.11,<3.15"
# dependencies = ["huggingface-hub>=2,<3"]
# ///
{_head(commands)}
import subprocess
import sys
from pathlib import Path

from huggingface_hub import HfApi, snapshot_download

ARGUMENTS = {json.dumps(run.arguments)}

repository = sys.argv[1]
project = Path(snapshot_download(repository, repo_type="dataset", local_dir="project"))
subprocess.run([sys.executable, "setup/setup.py", "--device", "{_device(job)}"], cwd=project, check=True)
ended = subprocess.run([".venv/bin/python", "-P", "-m", "phi_scaffold", *ARGUMENTS], cwd=project, check=False)
# Also after a failure: the next job resumes from the checkpoint.
HfApi().upload_folder(repo_id=repository, repo_type="dataset", folder_path=project / "gen-model", path_in_repo="gen-model")
sys.exit(ended.returncode)
'''
    return ClusterFile(path, signed(text, comment="#"), commands)


KINDS: dict[str, Callable[[RemoteJob], ClusterFile]] = {"sky": _sky, "hf": _hf_jobs, "k8s": _kubernetes}
"""The files by their names on the command line."""


# -- parts -------------------------------------------------------------------------------------------------------------


def _on_gpu(job: RemoteJob) -> bool:
    return job.steps[0].machines.device == "gpu"


def _device(job: RemoteJob) -> str:
    return "cuda" if _on_gpu(job) else "cpu"


def _files(job: RemoteJob) -> list[str]:
    """Return the files and folders that the job reads."""
    return sorted({*(file.name for file in job.snapshot.files), *(each.place for each in job.inputs), SETUP})


def _command(arguments: tuple[str, ...]) -> list[str]:
    return [".venv/bin/python", "-P", "-m", "phi_scaffold", *arguments]


def _head(commands: tuple[str, ...], note: str = "") -> str:
    lines = ["In the folder of the project:", *(f"  {command}" for command in commands), *([note] if note else [])]
    return "".join(f"# {line}\n" for line in lines)


class _Dumper(yaml.SafeDumper):
    """Writes texts of several lines as blocks."""


def _block(dumper: yaml.SafeDumper, text: str) -> Any:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _block)


def _yaml(value: Any) -> str:
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, width=1000, allow_unicode=True)
