"""The workspace's data plane: run history with logs, and the addresses of a job's outputs."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import quote

from tests.azure.standin.arm import AUDIENCES
from tests.azure.standin.cloud import API, BLOBS, ROOT, Cloud, Job
from tests.azure.standin.messages import Answer, Call, as_json, refusal

ASSET = "azureml://locations/eastus/workspaces/workspace-id/data"


def answer(cloud: Cloud, call: Call) -> Answer:
    if call.path == "/discovery":  # needs no sign-in
        return as_json({"api": API, "history": API, "experimentation": API})
    if refused := cloud.unauthorized(call, *AUDIENCES):
        return refused
    if ROOT.lower() not in call.path.lower():
        return refusal(404, "NotFound", call.path)
    if call.path.lower().endswith("/dataversion/batchgetresolveduris"):
        return as_json({"values": _resolved(cloud, call.json.get("values") or [])})
    if call.path.lower().endswith("/rundata"):
        return _with_job(cloud, call.json["runId"], "rundata")
    if match := re.search(r"/history/v1\.0/.*/runs/([^/]+)(?:/(details|children))?$", call.path, re.IGNORECASE):
        return _with_job(cloud, match[1], match[2] or "")
    return refusal(404, "NotFound", call.path)


def _with_job(cloud: Cloud, name: str, what: str) -> Answer:
    if (job := cloud.jobs.get(name)) is None:
        return refusal(404, "UserError", f"Run {name} was not found")
    if what == "details":
        return as_json(_details(cloud, job))
    if what == "children":
        return as_json({"value": [_run(child) for child in cloud.children(job)], "nextLink": None})
    return as_json({"runMetadata": _run(job)} if what == "rundata" else _run(job))


def _details(cloud: Cloud, job: Job) -> dict[str, Any]:
    folder = f"https://{BLOBS}/azureml/ExperimentRun/dcid.{job.name}"
    logs = {name: f"{folder}/{quote(name)}?{cloud.sign('azureml')}" for name in list(job.logs)}
    details = {"runId": job.name, "status": job.status, "logFiles": logs, "warnings": [], "properties": {}}
    if job.error:
        details["error"] = {"error": {"code": "UserError", "message": job.error, "details": []}}
    return details


def _run(job: Job) -> dict[str, Any]:
    outputs = {name: {"assetId": _asset(job, name), "type": "UriFolder"} for name in job.outputs}
    return {
        "runId": job.name,
        "runUuid": job.name,
        "parentRunId": job.parent or None,
        "rootRunId": job.parent or job.name,
        "displayName": job.node or job.name,
        "status": job.status,
        "experimentId": "experiment",
        "runType": "azureml.StepRun" if job.parent else "azureml.scriptrun",
        "properties": {"azureml.moduleName": job.node} if job.node else {},
        "tags": {},
        "inputs": {},
        "outputs": outputs,
    }


def _asset(job: Job, output: str) -> str:
    return f"{ASSET}/azureml_{job.name}_output_data_{output}/versions/1"


def _resolved(cloud: Cloud, assets: list[str]) -> dict[str, dict[str, str]]:
    uris = {_asset(job, name): uri for job in list(cloud.jobs.values()) for name, uri in job.outputs.items()}
    return {asset: {"uri": uris[asset]} for asset in assets if asset in uris}
