"""The engine of Azure ML: submits through Azure's client, and follows with ranged requests of its own."""

from __future__ import annotations

import contextlib
import io
import logging
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from phi_runtime.core.errors import NetworkError
from phi_runtime.remote.azureml.connection import ADDRESS, CANCEL, JOBS, BlobFolder, Connection
from phi_runtime.remote.azureml.errors import as_ours
from phi_runtime.remote.azureml.render import JOB_FILE, OUTPUT, SNAPSHOT, asset_of, render
from phi_runtime.remote.azureml.systems import Workspace
from phi_runtime.remote.engine import JobState, LogChunk, RemoteFile, Status
from phi_runtime.remote.job import Input, RemoteJob
from phi_runtime.remote.snapshot import NEVER
from phi_runtime.remote.worker import OUTPUT_MANIFEST

_STATES: dict[str, JobState] = {
    "Running": "running",
    "Finalizing": "running",
    "CancelRequested": "running",
    "Completed": "done",
    "Finished": "done",
    "Failed": "failed",
    "NotResponding": "failed",
    "Canceled": "canceled",
}
_LOGS = "user_logs/"


class AzureML:
    """Jobs in one workspace of Azure ML.

    Args:
        workspace: The workspace.
        say: Receives notes, such as the way of the sign-in.
    """

    name = "azureml"
    shares_disk = False

    def __init__(self, workspace: Workspace, say: Callable[[str], None]) -> None:
        self.workspace = workspace
        self.say = say
        self._connected: Connection | None = None

    def render(self, job: RemoteJob) -> dict[str, str]:
        """Return job.yaml and the conda file that it names."""
        return render(job)

    def submit(self, job: RemoteJob) -> Status:
        """Write snapshot and YAML into a temporary folder, and submit them."""
        with tempfile.TemporaryDirectory(prefix="phi-scaffold-job-") as name:
            folder = Path(name)
            job.snapshot.write(folder / SNAPSHOT)
            # The client would read .gitignore instead; the snapshot has none of these anyway.
            ignored = "".join(f"{each}\n" for each in sorted(NEVER))
            (folder / SNAPSHOT / ".amlignore").write_text(ignored, encoding="utf-8")
            for file, text in self.render(job).items():
                (folder / file).write_text(text, encoding="utf-8")
            self._submit(job, folder)
        status = self.status(job.name)
        if status is None:
            raise NetworkError(
                f"Azure ML has no job {job.name} after it was submitted", fix="run the same command again"
            )
        return status

    def _submit(self, job: RemoteJob, folder: Path) -> None:
        """Submit the files in `folder`, after the local inputs of the job."""
        with as_ours("submitting the job"), _quiet_client(), contextlib.chdir(folder):  # no git repository is there
            from azure.ai.ml import MLClient, load_job
            from azure.core.exceptions import ResourceExistsError

            client = MLClient(
                self._connection.credential,
                self.workspace.subscription,
                self.workspace.group,
                self.workspace.name,
                show_progress=True,  # without it, 1.34.1 to 1.35.2 wait forever if the upload of a file fails
                enable_telemetry=False,
            )
            for each in job.inputs:
                if each.local:
                    self._upload(client, job, each)
            with contextlib.suppress(ResourceExistsError):  # sent twice: the job of this name is this job
                client.jobs.create_or_update(load_job(folder / JOB_FILE))

    def status(self, name: str) -> Status | None:
        """Return the status of the job `name`."""
        with as_ours("reading the status of the job"):
            found = self._connection.request("GET", f"/jobs/{name}", version=JOBS)
            if found is None:
                return None
            properties = found["properties"]
            word = properties.get("status") or "NotStarted"
            state = _STATES.get(word, "queued")
            page = ((properties.get("services") or {}).get("Studio") or {}).get("endpoint") or ""
            why = self._why(name) if state == "failed" else ""
            return Status(name, state, word, why, page)

    def logs(self, name: str, offsets: Mapping[str, int]) -> Iterator[LogChunk]:
        """Yield new bytes of the logs of the user's command; of each step in a pipeline."""
        with as_ours("reading the log of the job"):
            from azure.storage.blob import BlobClient

            runs = [(name, "")]
            children = self._connection.run(name, "children") or {}
            for child in children.get("value") or ():
                runs.append((child["runId"], f"{child.get('displayName') or child.get('name') or child['runId']}/"))
            for run, label in runs:
                details = self._connection.run(run, "details") or {}
                for log, address in sorted((details.get("logFiles") or {}).items()):
                    if log.startswith(_LOGS):
                        key = label + log.removeprefix(_LOGS)
                        offset = offsets.get(key, 0)
                        # The address has a new signature each time, as an old one ends while the job runs.
                        for data in _read_from(BlobClient.from_blob_url(address, **self._connection.storage), offset):
                            yield LogChunk(key, offset, data)
                            offset += len(data)

    def cancel(self, name: str) -> None:
        """Cancel the job `name`."""
        with as_ours("canceling the job"):
            self._connection.request("POST", f"/jobs/{name}/cancel", version=CANCEL)

    def outputs(self, name: str) -> list[RemoteFile]:
        """Return the files of the output gen_model."""
        with as_ours("listing the outputs of the job"):
            folder = self._output(name)
            blobs = folder.container.list_blobs(name_starts_with=folder.prefix)
            return [
                RemoteFile(blob.name.removeprefix(folder.prefix), blob.size)
                for blob in blobs
                if not blob.name.endswith("/") and not (blob.metadata or {}).get("hdi_isfolder")
            ]

    def read(self, name: str, file: RemoteFile, offset: int) -> Iterator[bytes]:
        """Yield the content of an output from `offset` on."""
        with as_ours(f"downloading {file.name}"):
            folder = self._output(name)  # with a new signature, as one ends after an hour
            blob = folder.container.get_blob_client(folder.prefix + file.name)
            yield from blob.download_blob(offset=offset or None).chunks()

    @property
    def _connection(self) -> Connection:
        if self._connected is None:
            self._connected = Connection(self.workspace, self.say)
        return self._connected

    def _output(self, name: str) -> BlobFolder:
        """Return the folder of the output; that of the last step that has one in a pipeline that has failed."""
        found = self._connection.request("GET", f"/jobs/{name}", version=JOBS)
        properties = (found or {}).get("properties") or {}
        address = ((properties.get("outputs") or {}).get(OUTPUT) or {}).get("uri") or ""
        if not ADDRESS.fullmatch(address):  # the address that the service chooses if the job names none
            address = f"azureml://datastores/workspaceblobstore/paths/azureml/{name}/{OUTPUT}/"
        address = address.replace("${{name}}", name)
        folder = self._connection.folder(address)
        if _STATES.get(properties.get("status") or "") not in ("failed", "canceled"):
            return folder
        steps = reversed(properties.get("jobs") or {})
        earlier = (re.sub(rf"/{name}/[^/]+/{OUTPUT}/$", f"/{name}/{step}/{OUTPUT}/", address) for step in steps)
        return next(filter(_exists, [folder, *map(self._connection.folder, earlier)]), folder)

    def _why(self, name: str) -> str:
        details = self._connection.run(name, "details") or {}
        error = (details.get("error") or {}).get("error") or {}
        return str(error.get("message") or "").strip()

    def _upload(self, client: Any, job: RemoteJob, each: Input) -> None:
        from azure.ai.ml.entities import Data
        from azure.core.exceptions import ResourceNotFoundError

        name, version = asset_of(job, each)
        try:
            client.data.get(name, version)  # the same content is there
        except ResourceNotFoundError:
            kind = "uri_file" if each.local and each.local.is_file() else "uri_folder"
            client.data.create_or_update(Data(name=name, version=version, path=str(each.local), type=kind))


def _exists(folder: BlobFolder) -> bool:
    """Return True if a job has completed an output in `folder`."""
    return bool(folder.container.get_blob_client(folder.prefix + OUTPUT_MANIFEST).exists())


def _read_from(blob: Any, offset: int) -> Iterator[bytes]:
    """Yield the content of a blob from `offset` on; nothing if it has no more."""
    from azure.core.exceptions import HttpResponseError

    try:
        yield from blob.download_blob(offset=offset or None).chunks()
    except HttpResponseError as e:
        if e.status_code not in (404, 416):  # 416: nothing is there behind the offset
            raise


@contextlib.contextmanager
def _quiet_client() -> Iterator[None]:
    """Keep what azure-ai-ml prints and logs off our output."""
    logging.getLogger("azure.ai.ml").setLevel(logging.ERROR)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield
