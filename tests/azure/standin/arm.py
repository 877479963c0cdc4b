"""Azure Resource Manager: the workspace, its datastores, computes, assets and jobs."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.azure.standin.cloud import (
    ACCOUNT,
    API,
    BLOBS,
    DATASTORES,
    ENDED,
    PROVIDERS,
    ROOT,
    TENANT,
    VAULT,
    WORKSPACE,
    Cloud,
    Job,
)
from tests.azure.standin.messages import Answer, Call, as_json, refusal

AUDIENCES = ("https://management.azure.com", "https://ml.azure.com")


@dataclass(frozen=True)
class Target:
    """A request, and the names in its path."""

    cloud: Cloud
    call: Call
    match: re.Match[str]


def answer(cloud: Cloud, call: Call) -> Answer:
    if refused := cloud.unauthorized(call, *AUDIENCES):
        return refused
    if not call.path.lower().startswith(ROOT.lower()):
        return refusal(404, "ResourceNotFound", f"The Resource {call.path!r} was not found.")
    rest = call.path[len(ROOT) :].strip("/")
    with cloud.lock:
        for method, pattern, handle in ROUTES:
            if call.method == method and (match := re.fullmatch(pattern, rest, re.IGNORECASE)):
                return handle(Target(cloud, call, match))
    return refusal(404, "UserError", f"{rest} was not found")


def _workspace(_: Target) -> Answer:
    properties = {
        "workspaceId": "workspace-id",
        "friendlyName": WORKSPACE,
        "provisioningState": "Succeeded",
        "discoveryUrl": f"{API}/discovery",
        "mlFlowTrackingUri": f"azureml://eastus.api.azureml.ms/mlflow/v1.0{ROOT}",
        "keyVault": f"{PROVIDERS}/Microsoft.KeyVault/vaults/{VAULT}",
        "storageAccount": f"{PROVIDERS}/Microsoft.Storage/storageAccounts/{ACCOUNT}",
    }
    return as_json(
        {
            "id": ROOT,
            "name": WORKSPACE,
            "type": "Microsoft.MachineLearningServices/workspaces",
            "location": "eastus",
            "identity": {"type": "SystemAssigned"},
            "properties": properties,
        }
    )


def _compute(target: Target) -> Answer:
    if (kind := target.cloud.computes.get(target.match[1])) is None:
        return refusal(404, "ResourceNotFound", f"Compute with name {target.match[1]} was not found.")
    scale = {"minNodeCount": 0, "maxNodeCount": 4}
    inner = {"vmSize": "Standard_NC24ads_A100_v4", "scaleSettings": scale}
    properties = {"computeType": kind, "provisioningState": "Succeeded", "properties": inner}
    return as_json({"id": target.call.path, "name": target.match[1], "location": "eastus", "properties": properties})


def _datastore(name: str) -> dict[str, Any]:
    properties = {
        "datastoreType": "AzureBlob",
        "isDefault": name == "workspaceblobstore",
        "accountName": ACCOUNT,
        "containerName": DATASTORES[name],
        "endpoint": "core.windows.net",
        "protocol": "https",
        "credentials": {"credentialsType": "AccountKey"},
    }
    return {"id": f"{ROOT}/datastores/{name}", "name": name, "properties": properties}


def _datastores(target: Target) -> Answer:
    default = target.call.query.get("isDefault", "").lower() == "true"
    stores = [_datastore(name) for name in DATASTORES]
    return as_json({"value": [store for store in stores if store["properties"]["isDefault"] or not default]})


def _one_datastore(target: Target) -> Answer:
    if target.match[1] not in DATASTORES:
        return refusal(404, "UserError", f"Could not find datastore: {target.match[1]}")
    return as_json(_datastore(target.match[1]))


def _list_secrets(target: Target) -> Answer:
    if target.match[1] not in DATASTORES:
        return refusal(404, "UserError", f"Could not find datastore: {target.match[1]}")
    return as_json({"secretsType": "Sas", "sasToken": target.cloud.sign(DATASTORES[target.match[1]])})


def _start_upload(target: Target) -> Answer:
    container = f"{target.match[2]}-{target.match[3]}"[:63].lower()
    address = f"https://{BLOBS}/{container}"
    credential = {"credentialType": "SAS", "sasUri": f"{address}?{target.cloud.sign(container)}"}
    reference = {"blobUri": address, "storageAccountArmId": "storage", "credential": credential}
    kind = {"pendingUploadType": "TemporaryBlobReference", "pendingUploadId": str(uuid.uuid4())}
    return as_json({**kind, "blobReferenceForConsumption": reference})


def _same_code(target: Target) -> Answer:
    """Find code by its hash, under any name."""
    hashed = target.call.query.get("hash")
    value = [
        document
        for path, document in target.cloud.documents.items()
        if "/codes/" in path and (document["properties"].get("properties") or {}).get("hash_sha256") == hashed
    ]
    return as_json({"value": value})


def _put_document(target: Target) -> Answer:
    """Store an asset; data and code cannot change once they are stored."""
    old, properties = target.cloud.documents.get(target.call.path.lower()), target.call.json["properties"]
    for key in ("dataUri", "codeUri"):
        if old and old["properties"].get(key) != properties.get(key):
            return refusal(409, "UserError", f"A version {target.match[3]} of {target.match[2]} exists already.")
    document = _document(target.call.path, target.match[3], properties)
    target.cloud.documents[target.call.path.lower()] = document
    return as_json(document, 200 if old else 201)


def _get_document(target: Target) -> Answer:
    if document := target.cloud.documents.get(target.call.path.lower()):
        return as_json(document)
    if target.match[1].lower() == "models" and ("", target.match[2], target.match[3]) in target.cloud.registry:
        uri = f"azureml://datastores/workspaceblobstore/paths/models/{target.match[2]}"
        return as_json(_document(target.call.path, target.match[3], {"modelType": "mlflow_model", "modelUri": uri}))
    return refusal(404, "UserError", f"{target.match[0]} was not found")


def _put_job(target: Target) -> Answer:
    from tests.azure.standin import runner

    name, properties = target.match[1], target.call.json["properties"]
    if name in target.cloud.jobs:
        return refusal(409, "UserError", f"A job with this name already exists: {name}")
    nodes = (properties.get("jobs") or {}).values()
    for compute in {properties.get("computeId"), *(node.get("computeId") for node in nodes)} - {None}:
        if compute.rsplit("/", 1)[-1] not in target.cloud.computes:
            return refusal(400, "UserError", f"Unknown compute target '{compute.rsplit('/', 1)[-1]}'.")
    job = target.cloud.jobs[name] = Job(name, properties)
    if target.cloud.has_machines:
        runner.start(target.cloud, job)
    else:
        job.set_status("Queued")
    return as_json(_job(job), 201)


def _get_job(target: Target) -> Answer:
    if job := target.cloud.jobs.get(target.match[1]):
        return as_json(_job(job))
    return refusal(404, "UserError", f"Run {target.match[1]} was not found")


def _list_jobs(target: Target) -> Answer:
    return as_json({"value": [_job(job) for job in target.cloud.jobs.values() if not job.parent]})


def _cancel(target: Target) -> Answer:
    if (job := target.cloud.jobs.get(target.match[1])) is None:
        return refusal(404, "UserError", f"Run {target.match[1]} was not found")
    job.set_status("CancelRequested" if target.cloud.has_machines else "Canceled")
    job.canceled.set()
    location = f"https://management.azure.com{ROOT}/jobs/{job.name}/cancelstatus?api-version=2023-04-01-preview"
    return Answer(202, headers={"Location": location, "Retry-After": "0"})


def _cancel_status(target: Target) -> Answer:
    if target.cloud.jobs[target.match[1]].status in ENDED:
        return Answer(200)
    location = f"https://management.azure.com{target.call.path}?api-version=2023-04-01-preview"
    return Answer(202, headers={"Location": location, "Retry-After": "0"})


def _job(job: Job) -> dict[str, Any]:
    address = f"https://ml.azure.com/runs/{job.name}?wsid={ROOT}&tid={TENANT}"
    tracking = f"azureml://eastus.api.azureml.ms/mlflow/v1.0{ROOT}?"
    services = {
        "Studio": {"jobServiceType": "Studio", "endpoint": address},
        "Tracking": {"jobServiceType": "Tracking", "endpoint": tracking},
    }
    folder = f"azureml://datastores/workspaceartifactstore/ExperimentRun/dcid.{job.name}"
    default = {"default": {"jobOutputType": "uri_folder", "uri": folder}}  # the service adds it
    outputs = (job.properties.get("outputs") or {}) | default
    properties = {**job.properties, "status": job.status, "services": services, "outputs": outputs}
    return _document(f"{ROOT}/jobs/{job.name}", job.name, properties)


def _document(path: str, name: str, properties: dict[str, Any]) -> dict[str, Any]:
    created = {"createdAt": "2026-11-28T00:00:00Z", "createdBy": "dev", "createdByType": "User"}
    kind = path[len(ROOT) :].strip("/").split("/")[0]
    resource = f"Microsoft.MachineLearningServices/workspaces/{kind}"
    return {"id": path, "name": name, "type": resource, "properties": properties, "systemData": created}


ASSET = r"(codes|environments|data|components|models)/([^/]+)/versions/([^/]+)"
ROUTES: tuple[tuple[str, str, Callable[[Target], Answer]], ...] = (
    ("GET", r"", _workspace),
    ("GET", r"computes/([^/]+)", _compute),
    ("GET", r"datastores", _datastores),
    ("GET", r"datastores/([^/]+)", _one_datastore),
    ("POST", r"datastores/([^/]+)/listSecrets", _list_secrets),
    ("POST", rf"{ASSET}/startPendingUpload", _start_upload),
    ("GET", r"codes/[^/]+/versions", _same_code),
    ("PUT", ASSET, _put_document),
    ("GET", ASSET, _get_document),
    ("GET", r"jobs", _list_jobs),
    ("PUT", r"jobs/([^/]+)", _put_job),
    ("GET", r"jobs/([^/]+)", _get_job),
    ("POST", r"jobs/([^/]+)/cancel", _cancel),
    ("GET", r"jobs/([^/]+)/cancelstatus", _cancel_status),
)
