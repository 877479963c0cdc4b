"""Requests to one Azure ML workspace, with sign-in and retries: the Resource Manager, the history of runs, and blob storage.

azure-ai-ml is used to submit only. Its `jobs.stream` and `jobs.download` fail or lose outputs in 1.35.0 to 1.35.2 (issue 48941 of
azure-sdk-for-python), and its import takes seconds.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from urllib.parse import urlsplit

from phi_runtime.core.errors import NetworkError
from phi_runtime.remote.azureml.sign_in import credential_of
from phi_runtime.remote.azureml.systems import Workspace

_RESOURCE_MANAGER = "https://management.azure.com"
_SCOPE = f"{_RESOURCE_MANAGER}/.default"
JOBS = "2024-01-01-preview"
CANCEL = "2023-04-01-preview"
WORKSPACES = DATASTORES = "2024-10-01-preview"
ADDRESS = re.compile(r"azureml://(?:.*/)?datastores/(?P<store>[^/]+)/paths/(?P<path>.*)", re.IGNORECASE)


@dataclass(frozen=True)
class BlobFolder:
    """A folder of blob storage: a client for its container, and the prefix of its names."""

    container: Any
    prefix: str


class Connection:
    """A signed-in connection to one workspace. All methods raise what Azure's clients raise; see `as_ours`."""

    def __init__(self, workspace: Workspace, say: Callable[[str], None]) -> None:
        from azure.core import PipelineClient
        from azure.core.pipeline.policies import (
            BearerTokenCredentialPolicy,
            RedirectPolicy,
            RequestIdPolicy,
            RetryPolicy,
        )

        self.workspace = workspace
        self.credential = credential_of(workspace, say)
        retries = RetryPolicy(
            retry_total=workspace.retries,
            retry_backoff_factor=max(workspace.retry_interval_s, 1) / 10,
            timeout=600,
        )
        policies = [
            RequestIdPolicy(),
            RedirectPolicy(),
            retries,
            BearerTokenCredentialPolicy(self.credential, _SCOPE),
        ]
        self._client: Any = PipelineClient(_RESOURCE_MANAGER, policies=policies)

    def request(self, method: str, url: str, *, version: str = "", body: Mapping[str, Any] | None = None) -> Any:
        """Return the JSON of an answer; None for 404 or an empty one. `url` is an address, or a path below the workspace."""
        from azure.core.exceptions import HttpResponseError
        from azure.core.rest import HttpRequest

        address = url if url.startswith("https://") else f"{_RESOURCE_MANAGER}{self.workspace.path}{url}"
        parameters = {"api-version": version} if version else None
        request = HttpRequest(method, address, params=parameters, json=body)
        answer = self._client.send_request(request, connection_timeout=20, read_timeout=self.workspace.timeout_s)
        if answer.status_code == 404:
            return None
        if answer.status_code >= 400:
            raise HttpResponseError(response=answer)
        return answer.json() if answer.content else None

    @cached_property
    def history(self) -> str:
        """The address of the runs of the workspace, which its region decides on."""
        found = self.request("GET", "", version=WORKSPACES)
        if found is None:
            raise NetworkError(
                f"there is no workspace {self.workspace.path}", fix="check `azureml_client` in the config"
            )
        discovery = found["properties"]["discoveryUrl"]
        if not (urlsplit(discovery).hostname or "").endswith(".azureml.ms"):  # our token is sent there
            raise NetworkError(
                f"the workspace names an unknown service: {discovery}", fix="check `azureml_client` in the config"
            )
        services = self.request("GET", discovery)
        if services is None:
            raise NetworkError(f"the workspace does not answer at {discovery}", fix="run the same command again")
        return f"{services['api']}/history/v1.0{self.workspace.path}"

    def run(self, name: str, part: str) -> Any:
        """Return `details` or `children` of a run; None if there is no such run."""
        return self.request("GET", f"{self.history}/runs/{name}/{part}")

    def folder(self, address: str) -> BlobFolder:
        """Return the folder of a datastore that `address` names, with a signature of one hour.

        Raises:
            NetworkError: It is not in blob storage.
        """
        from azure.storage.blob import ContainerClient

        match = ADDRESS.fullmatch(address)
        store = self.request("GET", f"/datastores/{match['store']}", version=DATASTORES) if match else None
        if match is None or store is None:
            raise NetworkError(f"{address} is in no datastore of the workspace", fix="check `datastores` of the system")
        properties = store["properties"]
        if properties.get("datastoreType") not in ("AzureBlob", "AzureDataLakeGen2"):
            raise NetworkError(
                f"the datastore {match['store']} is no blob storage", fix="set `datastores` of the system"
            )
        account, container = properties["accountName"], properties.get("containerName") or properties.get("filesystem")
        lifetime = {"expirableSecret": True, "expireAfterHours": 1}
        secrets = (
            self.request("POST", f"/datastores/{match['store']}/listSecrets", version=DATASTORES, body=lifetime) or {}
        )
        credential = secrets.get("sasToken") or secrets.get("key") or self.credential
        host = f"https://{account}.blob.{properties.get('endpoint') or 'core.windows.net'}"
        return BlobFolder(ContainerClient(host, container, credential, **self.storage), match["path"].strip("/") + "/")

    @property
    def storage(self) -> dict[str, Any]:
        """Settings of the clients of blob storage."""
        return {
            "retry_total": self.workspace.retries,
            "initial_backoff": 1,
            "connection_timeout": 20,
            "read_timeout": self.workspace.timeout_s,
        }
