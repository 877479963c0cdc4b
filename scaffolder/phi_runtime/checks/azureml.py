"""Check the Azure ML parts of a config: what would fail at the service, or only after a machine was started."""

from __future__ import annotations

import re
from collections.abc import Iterator

from phi_runtime.checks.sections import Checks, placeholders
from phi_runtime.config.diagnostics import Finding
from phi_runtime.config.paths import resolve
from phi_runtime.config.reading.source import KeyPath
from phi_runtime.config.schema import AzureMLSystem
from phi_runtime.config.schema.systems import AzureMLClient

_NAME = re.compile(r"(azureml:)?[A-Za-z0-9][\w-]{0,254}")
_SUBSCRIPTION = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
_SECRET = re.compile(r"(?i)secret|password|certificate|token$|assertion")
_CLIENT: KeyPath = ("azureml_client",)


def check_azureml(c: Checks) -> Iterator[Finding]:
    """Yield what is wrong with the Azure ML systems that the passes run on; warnings for placeholders of the others."""
    used = c.azureml
    found = list(placeholders(c, _CLIENT, c.draft.get(_CLIENT), errors=bool(used)))
    for name in c.parts.systems:
        found += placeholders(c, ("systems", name), c.draft.get(("systems", name)), errors=name in used)
    yield from found
    reported = {finding.where for finding in found}
    for name, system in used.items():
        for finding in _system(c, ("systems", name), system):
            if finding.where not in reported:
                reported.add(finding.where)
                yield finding
    if any(system.hf_token for system in used.values()):
        for name in (name for name, system in used.items() if system.hf_token is None):
            message = f"`{name}` has no `hf_token`, and each step of a pipeline downloads the base model"
            yield c.warning(("systems", name), "azureml", message)
    if used and not c.overrides.on_azureml:
        yield from _passes_here(c)


def _passes_here(c: Checks) -> Iterator[Finding]:
    """Yield the first pass of this machine in a config whose other passes run on Azure ML."""
    hosts = {name: c.host_name(step) for name, step in c.steps.items()}
    here = next((name for name, host in hosts.items() if host not in c.azureml), None)
    if here is None:
        return
    there = next(name for name, host in hosts.items() if host in c.azureml)
    at: KeyPath = ("passes", there, "host") if c.draft.has(("passes", there, "host")) else ("host",)
    message = f"`{there}` runs on `{hosts[there]}` and `{here}` on this machine, which are two commands"
    fix = f"phi-scaffold run --on azureml --until {there}, then phi-scaffold run --on local"
    yield c.warning(at, "azureml-host", message, fix)


def _system(c: Checks, at: KeyPath, system: AzureMLSystem) -> Iterator[Finding]:
    if not _NAME.fullmatch(system.aml_compute):
        message = f"`{system.aml_compute}` is no name of a compute: letters, digits, - and _"
        yield c.error((*at, "aml_compute"), "azureml-name", message)
    docker = system.aml_docker_config
    if docker and docker.conda_file_path and not (conda := resolve(docker.conda_file_path, c.path).path).is_file():
        yield c.error((*at, "aml_docker_config", "conda_file_path"), "file-not-found", f"no conda file at {conda}")
    if docker and docker.dockerfile:
        file = resolve(docker.build_context_path or ".", c.path).path / docker.dockerfile
        if not file.is_file():
            yield c.error((*at, "aml_docker_config", "dockerfile"), "file-not-found", f"no Dockerfile at {file}")
    own = c.draft.has((*at, "azureml_client_config"))
    client_at = (*at, "azureml_client_config") if own else _CLIENT
    client = system.azureml_client_config or c.parts.azureml_client
    yield from _client(c, at, client_at, client)
    if system.hf_token and client and not client.keyvault_name:
        message = "`hf_token` reads the secret `hf-token` of a key vault, and `keyvault_name` is not set"
        yield c.warning((*at, "hf_token"), "azureml", message)


def _client(c: Checks, at: KeyPath, client_at: KeyPath, client: AzureMLClient | None) -> Iterator[Finding]:
    if client is None:
        message = (
            "a job on Azure ML needs `azureml_client` with `subscription_id`, `resource_group` and `workspace_name`"
        )
        yield c.error(at, "missing-key", message)
        return
    if client.aml_config_path:
        if not (file := resolve(client.aml_config_path, c.path).path).is_file():
            yield c.error((*client_at, "aml_config_path"), "file-not-found", f"no config.json of Azure ML at {file}")
    else:
        for key in ("subscription_id", "resource_group", "workspace_name"):
            if not getattr(client, key):
                yield c.error(client_at, "missing-key", f"`{key}` of the Azure ML workspace is missing")
        if client.subscription_id and not _SUBSCRIPTION.fullmatch(client.subscription_id):
            message = f"`{client.subscription_id}` is no id of a subscription: `az account show --query id` prints it"
            yield c.error((*client_at, "subscription_id"), "azureml-name", message)
    for key in client.default_auth_params or {}:
        if _SECRET.search(key):
            message = f"`{key}` may be a secret, which a config must not hold: set AZURE_CLIENT_SECRET in your shell"
            yield c.error((*client_at, "default_auth_params", key), "credential", message)
