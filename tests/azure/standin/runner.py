"""Jobs: the very command that was submitted is run on this machine, with its code, inputs, outputs and environment variables.

Only the image and the conda environment are replaced: the Python of the tests is first on PATH. A job on several nodes is several
processes on this machine, and a limit of time is not applied.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from tests.azure.standin import pipeline
from tests.azure.standin.cloud import BLOBS, DATASTORES, GROUP, SUBSCRIPTION, WORKSPACE, Cloud, Job

KILL_AFTER_S = 20
WORKSPACE_PATHS = f"azureml://subscriptions/{SUBSCRIPTION}/resourcegroups/{GROUP}/workspaces/{WORKSPACE}/datastores"


class JobFailed(Exception):
    """The job has failed; the message is what the service says."""


def machine(folder: Path, python: Path, variables: Mapping[str, str]) -> dict[str, str]:
    """Return the environment variables of a machine on which `python` and `phi-scaffold` are commands."""
    programs = folder / "bin"
    programs.mkdir(exist_ok=True)
    for name, start in {"python": "", "python3": "", "phi-scaffold": "-m phi_scaffold"}.items():
        (programs / name).write_text(f'#!/bin/sh\nexec "{python}" {start} "$@"\n', encoding="utf-8")
        (programs / name).chmod(0o755)
    return {"PATH": f"{programs}:/usr/bin:/bin", "LANG": "C.UTF-8", "PYTHONUNBUFFERED": "1", **variables}


def start(cloud: Cloud, job: Job) -> None:
    """Run a job in the background."""
    threading.Thread(target=_run, args=(cloud, job), daemon=True).start()


def _run(cloud: Cloud, job: Job) -> None:
    work = Path(tempfile.mkdtemp(prefix="job-", dir=cloud.folder))
    try:
        job.set_status("Preparing")
        if "jobs" in job.properties:
            run_pipeline(cloud, job)
        else:
            run_command(cloud, job, work)
        job.set_status("Canceled" if job.canceled.is_set() else "Completed")
    except JobFailed as error:
        job.error = "" if job.canceled.is_set() else str(error)
        job.set_status("Canceled" if job.canceled.is_set() else "Failed")
    except Exception:
        cloud.errors.append(traceback.format_exc())
        job.error = "the stand-in itself has failed"
        job.set_status("Failed")
    finally:
        shutil.rmtree(work, ignore_errors=True)


def run_command(cloud: Cloud, job: Job, work: Path) -> None:
    properties, code = job.properties, work / "code"
    code.mkdir()
    if properties.get("codeId"):
        _write(cloud.snapshot(job), code)
    inputs = {name: _input(cloud, name, value, work) for name, value in (properties.get("inputs") or {}).items()}
    outputs = {name: work / "outputs" / name for name in properties.get("outputs") or {} if name != "default"}
    command = properties["command"]
    for kind, values in {"inputs": inputs, "outputs": outputs}.items():
        for name, value in values.items():
            command = command.replace(f"${{{{{kind}.{name}}}}}", str(value))
    if unknown := re.search(r"\$\{\{.*?\}\}", command):
        raise JobFailed(f"The command has an expression without a value: {unknown[0]}")
    for folder in outputs.values():
        folder.mkdir(parents=True)
    job.commands.append(command)
    environment = _environment(cloud, job, work, inputs, outputs)
    try:
        codes = _processes(cloud, job, command, code, environment)
    finally:
        for name, folder in outputs.items():
            job.outputs[name] = _upload(cloud, job, name, folder)
        cloud.put_data(f"ExperimentRun/dcid.{job.name}/outputs", code / "outputs", "workspaceartifactstore")
    if any(codes):
        failed = next(status for status in codes if status)
        raise JobFailed(f"Execution failed. User process exited with status code {failed}.")


def _environment(
    cloud: Cloud, job: Job, work: Path, inputs: Mapping[str, str], outputs: Mapping[str, Path]
) -> dict[str, str]:
    (work / "home").mkdir()
    service = {
        "HOME": str(work / "home"),
        "TMPDIR": str(work),
        "AZUREML_RUN_ID": job.name,
        "AZUREML_ARM_SUBSCRIPTION": SUBSCRIPTION,
        "AZUREML_ARM_RESOURCEGROUP": GROUP,
        "AZUREML_ARM_WORKSPACE_NAME": WORKSPACE,
        "AZUREML_CR_DATA_CAPABILITY_PATH": str(work),
        **{f"AZURE_ML_INPUT_{name}": value for name, value in inputs.items()},
        **{f"AZURE_ML_OUTPUT_{name}": str(path) for name, path in outputs.items()},
    }
    return {**cloud.machine, **service, **(job.properties.get("environmentVariables") or {})}


def _processes(cloud: Cloud, job: Job, command: str, code: Path, environment: Mapping[str, str]) -> list[int]:
    """Run the command once per process of its distribution, and return the exit codes."""
    job.set_status("Running")
    readers = []
    for log, variables in _ranks(job.properties):
        if job.canceled.is_set():
            break
        process = subprocess.Popen(
            ["bash", "-c", command],
            cwd=code,
            env={**environment, **variables},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        job.processes.append(process)
        path = f"ExperimentRun/dcid.{job.name}/{log}"
        cloud.put(DATASTORES["workspaceartifactstore"], path, b"")
        job.logs.append(log)
        assert process.stdout is not None
        readers.append(threading.Thread(target=_copy, args=(cloud, path, process.stdout), daemon=True))
        readers[-1].start()
    _wait(job)
    for reader in readers:
        reader.join()
    return [process.returncode for process in job.processes]


def _ranks(properties: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield the log and the environment variables of each process."""
    nodes = int((properties.get("resources") or {}).get("instanceCount") or 1)
    distribution = properties.get("distribution") or {}
    if distribution.get("distributionType") != "PyTorch":
        yield "user_logs/std_log.txt", {"AZUREML_NODE_COUNT": str(nodes)}
        return
    each = int(distribution.get("processCountPerInstance") or 1)
    port = str(20000 + os.getpid() % 20000)
    for rank in range(nodes * each):
        log = "user_logs/std_log.txt" if nodes * each == 1 else f"user_logs/std_log_process_{rank}.txt"
        yield (
            log,
            {
                "AZUREML_NODE_COUNT": str(nodes),
                "NODE_RANK": str(rank // each),
                "RANK": str(rank),
                "LOCAL_RANK": str(rank % each),
                "LOCAL_WORLD_SIZE": str(each),
                "WORLD_SIZE": str(nodes * each),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": port,
            },
        )


def _copy(cloud: Cloud, path: str, output: IO[bytes]) -> None:
    """Append the output of a process to its log."""
    blob = cloud.blobs[DATASTORES["workspaceartifactstore"]][path]
    while data := os.read(output.fileno(), 65536):
        with cloud.lock:
            blob.data += data
    output.close()


def _wait(job: Job) -> None:
    """Wait for all processes; one that fails, or a cancel, ends the others."""
    terminated_at = 0.0
    while any(process.poll() is None for process in job.processes):
        failed = any(process.returncode for process in job.processes)
        if not terminated_at and (job.canceled.wait(0.02) or failed):
            _signal(job, signal.SIGTERM)
            terminated_at = time.monotonic()
        elif terminated_at and time.monotonic() - terminated_at > KILL_AFTER_S:
            _signal(job, signal.SIGKILL)
        elif terminated_at:
            time.sleep(0.02)


def _signal(job: Job, number: signal.Signals) -> None:
    for process in job.processes:
        if process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, number)


# Inputs and outputs


def _input(cloud: Cloud, name: str, value: Mapping[str, Any], work: Path) -> str:
    """Return a literal, or the path of a file or folder that is downloaded for the job."""
    if value["jobInputType"] == "literal":
        return str(value["value"])
    uri = value["uri"]
    if match := re.search(r"/data/([^/]+)/versions/([^/]+)$", uri):
        uri = _document(cloud, uri, f"data asset {match[1]}")["dataUri"]
    folder = work / "inputs" / name
    folder.mkdir(parents=True)
    if match := re.search(r"(?:registries/([^/]+)/)?models/([^/]+)/versions/([^/]+)$", uri):
        if (model := cloud.registry.get((match[1] or "", match[2], match[3]))) is None:
            raise JobFailed(f"Model {match[2]} with version {match[3]} was not found: {uri}")
        shutil.copytree(model, folder, dirs_exist_ok=True)
        return str(folder)
    store, path = _place(uri)
    container = DATASTORES[store]
    if (file := cloud.blobs.get(container, {}).get(path)) is not None:
        (folder / path.rsplit("/", 1)[-1]).write_bytes(file.data)
        return str(folder / path.rsplit("/", 1)[-1])
    if not (files := cloud.files(container, f"{path}/" if path else "")):
        raise JobFailed(f"UserError: The path {path} of input {name} does not exist in datastore {store}.")
    _write(files, folder)
    return str(folder)


def _document(cloud: Cloud, path: str, what: str) -> dict[str, Any]:
    document = cloud.documents.get(path.removeprefix("azureml:").lower())
    if document is None:
        raise JobFailed(f"UserError: The {what} was not found.")
    properties: dict[str, Any] = document["properties"]
    return properties


def _place(uri: str) -> tuple[str, str]:
    """Return the datastore and the path of an address."""
    if match := re.search(r"datastores/([^/]+)/paths/(.*)$", uri):
        return match[1], match[2].rstrip("/")
    if match := re.match(rf"https://{re.escape(BLOBS)}/([^/]+)/(.*)$", uri):
        return next(store for store, container in DATASTORES.items() if container == match[1]), match[2].rstrip("/")
    raise JobFailed(f"UserError: The address of an input is not supported: {uri}")


def _upload(cloud: Cloud, job: Job, name: str, folder: Path) -> str:
    """Copy an output to its datastore, and return its address."""
    uri = (job.properties["outputs"][name] or {}).get("uri")
    store, path = _place(uri) if uri else ("workspaceblobstore", f"azureml/{job.name}/{name}")
    cloud.put_data(path, folder, store)
    return f"{WORKSPACE_PATHS}/{store}/paths/{path}/"


def _write(files: Mapping[str, bytes], folder: Path) -> None:
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def run_pipeline(cloud: Cloud, job: Job) -> None:
    """Run the nodes one after the other; the first that fails ends the pipeline."""
    job.set_status("Running")
    children: dict[str, Job] = {}
    for node in pipeline.nodes_in_order(job.properties["jobs"]):
        child = children[node] = pipeline.child_of(cloud, job, node, children)
        cloud.jobs[child.name] = child
        pipeline.note(cloud, job, f"Submitting 1 runs, first five are: {node}:{child.name}")
        _run(cloud, child)
        pipeline.note(cloud, job, f"Node {node} ended with {child.status}")
        if child.status != "Completed":
            raise JobFailed(f"Pipeline has failed child jobs. Failed nodes: /{node}. {child.error}")
    for name in job.properties.get("outputs") or {}:
        store, path = _place(pipeline.output_uri(job, name))
        job.outputs[name] = f"{WORKSPACE_PATHS}/{store}/paths/{path}/"
