"""Pipeline jobs: each node is a command of its component, run once the nodes that it reads from have completed."""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping
from typing import Any

from tests.azure.standin.cloud import DATASTORES, Cloud, Job

LOG = "logs/azureml/executionlogs.txt"
SOURCE = re.compile(r"\$\{\{parent\.jobs\.(.+?)\.outputs\.(.+?)\}\}")
PARENT = re.compile(r"\$\{\{parent\.(inputs|outputs)\.(.+?)\}\}")


def nodes_in_order(nodes: Mapping[str, Any]) -> list[str]:
    """Return the names of the nodes, each after those whose outputs it reads."""
    order: list[str] = []
    while len(order) < len(nodes):
        ready = [name for name in nodes if name not in order and _sources(nodes[name]) <= set(order)]
        if not ready:
            raise ValueError("the nodes of the pipeline wait for each other")
        order += ready
    return order


def child_of(cloud: Cloud, job: Job, node: str, children: Mapping[str, Job]) -> Job:
    """Return the job of a node, whose inputs are the outputs of the children that have completed."""
    definition = job.properties["jobs"][node]
    spec = cloud.documents[definition["componentId"].lower()]["properties"]["componentSpec"]
    defaults = {
        name: {"value": value["default"]} for name, value in (spec.get("inputs") or {}).items() if "default" in value
    }
    resources = definition.get("resources") or spec.get("resources") or {}
    distribution = definition.get("distribution") or spec.get("distribution") or {}
    kind = distribution.get("distribution_type") or distribution.get("type") or ""
    properties = {
        "jobType": "Command",
        "command": spec["command"],
        "codeId": spec.get("code", "").removeprefix("azureml:"),
        "environmentId": spec.get("environment", "").removeprefix("azureml:"),
        "computeId": definition.get("computeId"),
        "environmentVariables": definition.get("environment_variables") or spec.get("environment_variables"),
        "resources": {"instanceCount": resources.get("instance_count", 1)},
        "identity": definition.get("identity"),
        "distribution": {
            "distributionType": "PyTorch" if kind.lower() == "pytorch" else kind,
            "processCountPerInstance": distribution.get("process_count_per_instance", 1),
        },
        "inputs": {
            name: _input(job, value, children) for name, value in (defaults | (definition.get("inputs") or {})).items()
        },
        "outputs": {
            name: _output(job, (definition.get("outputs") or {}).get(name) or {}) for name in spec.get("outputs") or {}
        },
    }
    name = str(uuid.uuid4())
    return Job(name, properties, parent=job.name, node=node, canceled=job.canceled)


def note(cloud: Cloud, job: Job, line: str) -> None:
    """Append a line to the log of a pipeline."""
    container, path = DATASTORES["workspaceartifactstore"], f"ExperimentRun/dcid.{job.name}/{LOG}"
    with cloud.lock:
        if LOG not in job.logs:
            cloud.put(container, path, b"")
            job.logs.append(LOG)
        cloud.blobs[container][path].data += f"{line}\n".encode()


def output_uri(job: Job, name: str) -> str:
    """Return the address of an output of a pipeline."""
    given = (job.properties["outputs"][name] or {}).get("uri")
    return given or f"azureml://datastores/workspaceblobstore/paths/azureml/{job.name}/{name}/"


def _sources(node: Mapping[str, Any]) -> set[str]:
    values = (str(value.get("value", "")) for value in (node.get("inputs") or {}).values())
    return {match[1] for value in values if (match := SOURCE.fullmatch(value))}


def _input(job: Job, value: Mapping[str, Any], children: Mapping[str, Job]) -> dict[str, Any]:
    text = str(value.get("value", ""))
    if match := SOURCE.fullmatch(text):
        return {"jobInputType": "uri_folder", "uri": children[match[1]].outputs[match[2]]}
    if match := PARENT.fullmatch(text):
        parent: dict[str, Any] = job.properties["inputs"][match[2]]
        return parent
    if "uri" in value:
        return {"jobInputType": value.get("job_input_type", "uri_folder"), "uri": value["uri"]}
    return {"jobInputType": "literal", "value": text}


def _output(job: Job, value: Mapping[str, Any]) -> dict[str, Any]:
    match = PARENT.fullmatch(str(value.get("value", "")))
    return {"jobOutputType": "uri_folder", "uri": output_uri(job, match[2]) if match else value.get("uri")}
