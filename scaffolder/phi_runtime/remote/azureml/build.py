"""Jobs of Azure ML from a workflow, and its engine from a record."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from phi_runtime.config.schema import AzureMLSystem, Workflow
from phi_runtime.core.project import ProjectFolder
from phi_runtime.remote.azureml.engine import AzureML
from phi_runtime.remote.azureml.systems import (
    Workspace,
    environment_of,
    machines_of,
    secrets_of,
    system_name,
    workspace_of,
)
from phi_runtime.remote.job import RemoteJob
from phi_runtime.remote.plan import Part, plan_job
from phi_runtime.remote.snapshot import SnapshotFile


@dataclass(frozen=True)
class AzureMLJob:
    """A job, its workspace, and notes on parts of the config that are replaced."""

    job: RemoteJob
    workspace: Workspace
    notes: tuple[str, ...]


def azureml_job(
    project: ProjectFolder,
    workflow: Workflow,
    *,
    on: str,
    arguments: Sequence[str],
    stages: Sequence[str],
    package: SnapshotFile,
    template_setup: Path,
    processes: int = 1,
    upload: bool = False,
    timeout_s: int | None = None,
) -> AzureMLJob:
    """Return the job that runs `phi-scaffold ARGUMENTS` on an Azure ML system.

    Args:
        project: The project.
        workflow: Its workflow.
        on: Name of a system of the config, or `azureml` for the one of `host`.
        arguments: Arguments of the command.
        stages: Stages that it updates.
        package: phi-scaffold itself.
        template_setup: Folder with the requirements of phi-scaffold.
        processes: Processes that train together on each machine.
        upload: Store local data, and a local base model, as data assets.
        timeout_s: Time limit.

    Raises:
        ConfigError: The workspace is not named completely.
        UsageError: There is no such system, or a file may not be sent.
    """
    name = system_name(workflow, project.config, on)
    system = workflow.systems[name]
    assert isinstance(system, AzureMLSystem)
    workspace = workspace_of(project, workflow, name)
    environment, reasons = environment_of(project, workflow, name, template_setup)
    part = Part("run", tuple(stages), tuple(arguments), machines_of(system, name, processes), environment)
    job = plan_job(
        project,
        workflow,
        [part],
        package=[package],
        secrets=secrets_of(workflow, name),
        tags=system.tags,
        upload=upload,
        timeout_s=timeout_s,
    )
    notes = []
    if reasons and system.aml_docker_config:
        file = system.aml_docker_config.conda_file_path
        notes.append(f"{file} is replaced by the tested versions of phi-scaffold: {'; '.join(reasons)}")
    return AzureMLJob(job, workspace, tuple(notes))


def settings_of(workspace: Workspace) -> dict[str, Any]:
    """Return the settings for the record of a job."""
    return asdict(workspace)


def engine_of(settings: Mapping[str, Any], say: Callable[[str], None]) -> AzureML:
    """Return the engine of a job whose record has these settings."""
    sign_in = tuple((str(key), str(value)) for key, value in settings.get("sign_in") or ())
    return AzureML(Workspace(**{**settings, "sign_in": sign_in}), say)
