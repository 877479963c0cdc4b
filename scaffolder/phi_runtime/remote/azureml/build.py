"""Jobs of Azure ML from a workflow, and its engine from a record."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from phi_runtime.config.schema import AzureMLSystem, Workflow
from phi_runtime.core.errors import Location, UsageError
from phi_runtime.core.project import ProjectFolder
from phi_runtime.remote.azureml.engine import AzureML
from phi_runtime.remote.azureml.systems import (
    Workspace,
    environment_of,
    machines_of,
    secrets_of,
    systems_of,
    workspace_of,
)
from phi_runtime.remote.job import RemoteJob, Step
from phi_runtime.remote.plan import plan_job
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
    selection: Sequence[str],
    stages: Sequence[str],
    arguments: Sequence[str],
    package: SnapshotFile,
    template_setup: Path,
    force: Sequence[str] = (),
    processes: int = 1,
    upload: bool = False,
    timeout_s: int | None = None,
) -> AzureMLJob:
    """Return the job that runs stages on the Azure ML systems of their passes: of one step for each.

    Args:
        project: The project.
        workflow: Its workflow.
        on: Name of a system of the config that all stages run on, or `azureml` for those that the config names.
        selection: Words of `phi-scaffold run` that select the stages, such as `--until merge`.
        stages: The stages that they select.
        arguments: Further arguments of `phi-scaffold run`.
        package: phi-scaffold itself.
        template_setup: Folder with the requirements of phi-scaffold.
        force: Stages that run even if they are cached.
        processes: Processes that train together on each machine.
        upload: Store local data, and a local base model, as data assets.
        timeout_s: Time limit of each step.

    Raises:
        ConfigError: The workspace is not named completely.
        UsageError: There is no such system, systems are in different workspaces, or a file may not be sent.
    """
    systems = systems_of(workflow, project.config, on, stages)
    steps, notes = [], []
    tags: dict[str, str] = {}
    for name, names in systems:
        system = workflow.systems[name]
        assert isinstance(system, AzureMLSystem)
        words = ["run", *(selection if len(systems) == 1 else names)]
        for stage in force:
            words += ["--force", stage] if stage in names else []
        words += [*arguments, *(("--set", f"host={name}") if name != workflow.host else ())]
        environment, reasons = environment_of(project, workflow, name, template_setup)
        if reasons and system.aml_docker_config:
            file = system.aml_docker_config.conda_file_path
            notes.append(f"{file} is replaced by the tested versions of phi-scaffold: {'; '.join(reasons)}")
        machines, secrets = machines_of(system, processes), secrets_of(workflow, name)
        steps.append(Step(_step_name(names, workflow), tuple(words), names, machines, environment, secrets=secrets))
        tags |= system.tags or {}
    workspaces = list(dict.fromkeys(workspace_of(project, workflow, name) for name, _ in systems))
    if len(workspaces) > 1:
        raise UsageError(
            f"`{systems[0][0]}` and `{systems[-1][0]}` are in different workspaces, and a job is in one",
            where=Location(project.config),
            fix="run one after the other: --on " + ", then --on ".join(dict.fromkeys(name for name, _ in systems)),
        )
    job = plan_job(project, workflow, steps, package=[package], tags=tags, upload=upload, timeout_s=timeout_s)
    return AzureMLJob(job, workspaces[0], tuple(dict.fromkeys(notes)))


def _step_name(stages: Sequence[str], workflow: Workflow) -> str:
    """Return the name of a step, an identifier: that of its first pass, in lower case, as nodes of a pipeline need it."""
    first = next((name for name in stages if name in workflow.passes), stages[0])
    return f"{'' if first[0].isalpha() else 'step_'}{re.sub('[^a-z0-9]', '_', first.lower())}"


def engine_of(settings: Mapping[str, Any], say: Callable[[str], None]) -> AzureML:
    """Return the engine of a job whose record has these settings."""
    sign_in = tuple((str(key), str(value)) for key, value in settings.get("sign_in") or ())
    return AzureML(Workspace(**{**settings, "sign_in": sign_in}), say)
