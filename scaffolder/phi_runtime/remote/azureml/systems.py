"""The Azure ML systems of a config: workspace, machines, environment and secrets. No client, no network."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from phi_runtime.config.paths import resolve
from phi_runtime.config.schema import AzureMLSystem, Workflow
from phi_runtime.config.schema.systems import AzureMLClient
from phi_runtime.core.errors import ConfigError, Location, UsageError
from phi_runtime.core.project import ProjectFolder
from phi_runtime.core.suggestions import did_you_mean
from phi_runtime.remote.job import Environment, Machines
from phi_runtime.remote.requirements import conda_file, pins, read_conda_file, why_not_installable

DEFAULT_IMAGE = "mcr.microsoft.com/azureml/openmpi4.1.0-ubuntu22.04"
SECRET_NAME = "hf-token"


@dataclass(frozen=True)
class Workspace:
    """An Azure ML workspace."""

    subscription: str
    group: str
    name: str
    timeout_s: int = 60
    retries: int = 3
    retry_interval_s: int = 5
    sign_in: tuple[tuple[str, str], ...] = ()

    @property
    def path(self) -> str:
        """Its path in the Azure Resource Manager."""
        group = f"/subscriptions/{self.subscription}/resourceGroups/{self.group}"
        return f"{group}/providers/Microsoft.MachineLearningServices/workspaces/{self.name}"


def system_name(workflow: Workflow, config: Path, requested: str = "azureml") -> str:
    """Return the name of the Azure ML system to run on: the one that `--on` names, that of `host`, or the only one.

    Raises:
        UsageError: There is none, or there are several.
    """
    systems = [name for name, system in workflow.systems.items() if isinstance(system, AzureMLSystem)]
    if requested in systems:
        return requested
    if requested != "azureml":
        known = ["azureml", "slurm", "local", *systems]
        raise UsageError(
            f"no Azure ML system is called `{requested}`{did_you_mean(requested, known)}",
            fix=f"use one of {', '.join(known)}",
        )
    if workflow.host in systems:
        return workflow.host
    if len(systems) == 1:
        return systems[0]
    where = Location(config)
    if not systems:
        raise UsageError(
            "the config has no Azure ML system",
            where=where,
            fix='add one to `systems`: {"type": "AzureML", "aml_compute": "NAME", "accelerators": [...]}, and `azureml_client`',
        )
    raise UsageError(
        f"the config has {len(systems)} Azure ML systems",
        where=where,
        fix=f"name one: --on {' or --on '.join(systems)}",
    )


def systems_of(
    workflow: Workflow, config: Path, requested: str, stages: Sequence[str]
) -> list[tuple[str, tuple[str, ...]]]:
    """Return the stages in order, by the Azure ML system that they run on: those of neighbors on one system together.

    A pass runs on its `host`, or on that of the config; the download before, and the evaluation after, on the same system.

    Args:
        requested: Name of a system that all stages run on, or `azureml`.

    Raises:
        UsageError: There is no such system, or there are several.
    """
    if requested != "azureml":
        return [(system_name(workflow, config, requested), tuple(stages))]
    groups: list[tuple[str, tuple[str, ...]]] = []
    waiting: tuple[str, ...] = ()
    for stage in stages:
        host = workflow.host_of(stage) if stage in workflow.passes else ""
        if host and not isinstance(workflow.systems[host], AzureMLSystem):
            host = system_name(workflow, config)
        if not host and not groups:
            waiting += (stage,)
        elif groups and host in ("", groups[-1][0]):
            groups[-1] = (groups[-1][0], (*groups[-1][1], stage))
        else:
            groups.append((host, (*waiting, stage)))
            waiting = ()
    return groups or [(system_name(workflow, config), waiting)]


def client_of(workflow: Workflow, name: str) -> AzureMLClient | None:
    """Return the settings of the workspace of the system `name`."""
    system = workflow.systems[name]
    own = system.azureml_client_config if isinstance(system, AzureMLSystem) else None
    return own or workflow.azureml_client


def workspace_of(project: ProjectFolder, workflow: Workflow, name: str) -> Workspace:
    """Return the workspace of the system `name`. Raises ConfigError if the config does not name it completely."""
    client = client_of(workflow, name) or AzureMLClient()
    named = {key: getattr(client, key) for key in ("subscription_id", "resource_group", "workspace_name")}
    where = Location(project.config)
    if client.aml_config_path:
        file = resolve(client.aml_config_path, project.config).path
        try:
            content = json.loads(file.read_text(encoding="utf-8-sig"))
            named = {key: content.get(key) or named[key] for key in named}
        except (OSError, ValueError, AttributeError):
            raise ConfigError(
                f"{file} is no config.json of Azure ML", where=where, fix="download it from the studio"
            ) from None
    if missing := [key for key, value in named.items() if not value]:
        raise ConfigError(
            f"`azureml_client` has no `{missing[0]}`",
            where=where,
            fix=f"add {', '.join(f'`{key}`' for key in missing)} to it",
        )
    sign_in = tuple(sorted((key, json.dumps(value)) for key, value in (client.default_auth_params or {}).items()))
    return Workspace(
        str(named["subscription_id"]),
        str(named["resource_group"]),
        str(named["workspace_name"]),
        client.read_timeout,
        client.max_operation_retries,
        client.operation_retry_interval,
        sign_in,
    )


def machines_of(system: AzureMLSystem, processes: int = 1) -> Machines:
    """Return the machines of an Azure ML system."""
    device = system.accelerators[0].device
    resources = dict(system.resources or {})
    count = int(resources.pop("instance_count", system.instance_count))
    compute = system.aml_compute.removeprefix("azureml:")
    return Machines(compute, device, count, processes, resources, system.datastores)


def secrets_of(workflow: Workflow, name: str) -> dict[str, str]:
    """Return the addresses of the secrets that a system reads: the Hub token, if it has `hf_token` and there is a key vault."""
    system, client = workflow.systems[name], client_of(workflow, name)
    if not system.hf_token or client is None or not client.keyvault_name:
        return {}
    vault = client.keyvault_name.removeprefix("https://").partition(".")[0]
    return {"HF_TOKEN": f"https://{vault}.vault.azure.net/secrets/{SECRET_NAME}"}


def environment_of(
    project: ProjectFolder, workflow: Workflow, name: str, template_setup: Path
) -> tuple[Environment, list[str]]:
    """Return the environment of the jobs of the system `name`, and the reasons for which its conda file is not used.

    Args:
        template_setup: Folder with the requirements of phi-scaffold.
    """
    system = workflow.systems[name]
    assert isinstance(system, AzureMLSystem)
    if existing := system.aml_environment_config:
        version = f"@{existing.label}" if existing.label else f":{existing.version}" if existing.version else "@latest"
        return Environment(existing=existing.name + version), []
    docker = system.aml_docker_config
    if docker and docker.dockerfile:
        context = resolve(docker.build_context_path or ".", project.config).path
        return Environment(build=(context, docker.dockerfile)), []
    image = docker.base_image if docker and docker.base_image else DEFAULT_IMAGE
    reasons = []
    if docker and docker.conda_file_path:
        own = read_conda_file(resolve(docker.conda_file_path, project.config).path)
        reasons = why_not_installable(own)
        if not reasons:
            return Environment(image, conda=own), []
    keyvault = bool(secrets_of(workflow, name))
    requirements = pins(
        project.root / "setup", template_setup, workflow, system.accelerators[0].device, keyvault=keyvault
    )
    return Environment(image, conda=conda_file(requirements), pins=requirements), reasons
