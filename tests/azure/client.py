"""Azure's own client as a process: it reads requests as lines of JSON and answers each with a line of JSON.

    {"do": "submit", "file": "job.yml"}   →   {"ok": {"name": …, "status": …}}   or   {"error": "HttpResponseError", "message": …}

It runs in an environment with azure-ai-ml and shares no code with the stand-in.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from azure.ai.ml import MLClient, load_job
from azure.ai.ml.entities import Data
from azure.core.credentials import TokenCredential
from azure.identity import DefaultAzureCredential, DeviceCodeCredential
from azure.keyvault.secrets import SecretClient


def client(where: tuple[str, ...], credential: TokenCredential) -> MLClient:
    return MLClient(credential, *where, show_progress=False, enable_telemetry=False)


class Client:
    """The requests. `where` is subscription, resource group and workspace."""

    def __init__(self, *where: str) -> None:
        self.where = where
        self.ml = client(where, DefaultAzureCredential())

    def sign_in(self) -> str:
        """Sign in again, with new tokens."""
        ml = client(self.where, DefaultAzureCredential())
        name = ml.workspaces.get(self.where[2]).name
        self.ml = ml
        return str(name)

    def sign_in_with_device_code(self) -> dict[str, Any]:
        prompts: list[str] = []
        credential = DeviceCodeCredential(prompt_callback=lambda *prompt: prompts.append(prompt[1]))
        workspace = client(self.where, credential).workspaces.get(self.where[2])
        return {"workspace": workspace.name, "prompts": prompts}

    def submit(self, file: str) -> dict[str, Any]:
        job = self.ml.jobs.create_or_update(load_job(file))
        return {"name": job.name, "status": job.status}

    def status(self, name: str) -> str:
        status = self.ml.jobs.get(name).status
        return str(getattr(status, "value", status))  # an enumeration from 1.35 on

    def names(self) -> list[str]:
        return [str(job.name) for job in self.ml.jobs.list()]

    def children(self, name: str) -> list[str]:
        return [str(job.name) for job in self.ml.jobs.list(parent_job_name=name)]

    def cancel(self, name: str) -> None:
        self.ml.jobs.begin_cancel(name).result()

    def download(self, name: str, folder: str, output: str | None = None) -> None:
        self.ml.jobs.download(name, download_path=folder, output_name=output, all=output is None)

    def stream(self, name: str) -> None:
        self.ml.jobs.stream(name)

    def upload(self, name: str, path: str) -> str:
        asset = self.ml.data.create_or_update(Data(name=name, version="1", type="uri_file", path=path))
        return str(asset.id)

    def secret(self, vault: str, name: str) -> str:
        credential = DefaultAzureCredential()
        return str(SecretClient(f"https://{vault}.vault.azure.net", credential).get_secret(name).value)


def main() -> None:
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what the client prints goes to the log of errors
    served = Client(*sys.argv[1:4])
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = {"ok": getattr(served, request.pop("do"))(**request)}
        except Exception as error:
            answer = {"error": type(error).__name__, "message": str(error)}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
