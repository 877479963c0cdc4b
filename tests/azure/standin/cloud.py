"""The state of the stand-in: blobs, documents, jobs, tokens, signatures, faults, and the log of requests."""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import re
import subprocess
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

from tests.azure.standin.messages import Answer, Call, refusal

SUBSCRIPTION, TENANT = "11111111-2222-3333-4444-555555555555", "99999999-8888-7777-6666-555555555555"
GROUP, WORKSPACE, VAULT, ACCOUNT = "phi-group", "phi-workspace", "phivault", "phiaccount"
PROVIDERS = f"/subscriptions/{SUBSCRIPTION}/resourceGroups/{GROUP}/providers"
ROOT = f"{PROVIDERS}/Microsoft.MachineLearningServices/workspaces/{WORKSPACE}"
BLOBS = f"{ACCOUNT}.blob.core.windows.net"
API = "https://eastus.api.azureml.ms"
DATASTORES = {"workspaceblobstore": "azureml-blobstore", "workspaceartifactstore": "azureml"}
"""Containers of the datastores."""
ENDED = ("Completed", "Failed", "Canceled")

# Found in nothing that is written or printed, or a secret has leaked.
CLIENT_SECRET = "CANARY-client-secret"
HUB_TOKEN = "hf_CANARYhubtoken"
TOKEN_MARK = base64.urlsafe_b64encode(b"CANARY-token").decode()
SIGNATURE_MARK = "CANARYsignature"
CANARIES = (CLIENT_SECRET, HUB_TOKEN, TOKEN_MARK, SIGNATURE_MARK, "CANARY")


@dataclass
class Blob:
    """A file in a container. `tag` changes with each write."""

    data: bytearray
    metadata: dict[str, str] = field(default_factory=dict)
    tag: str = field(default_factory=lambda: f'"0x{uuid.uuid4().hex[:15].upper()}"')


@dataclass
class Fault:
    """A failure of the next `times` requests whose method and address match the pattern `match`.

    `kind` is an HTTP status; "drop" closes the connection without an answer, "lose" does so after the request has had its effect,
    "cut" sends half of the answer.
    """

    match: str
    kind: int | Literal["drop", "lose", "cut"]
    times: int = 1
    code: str = "PlantedFault"
    message: str = "a fault that the test requested"
    headers: Mapping[str, str] = field(default_factory=dict)

    def answer(self) -> Answer:
        assert isinstance(self.kind, int)
        return refusal(self.kind, self.code, self.message, self.headers)


@dataclass(frozen=True)
class Request:
    """One entry of the log; the signature of its query is not kept. `at` is in seconds of the monotonic clock."""

    method: str
    host: str
    path: str
    query: Mapping[str, str]
    api_version: str
    status: int | str
    body: Any = None
    agent: str = ""
    at: float = field(default_factory=time.monotonic)

    @property
    def address(self) -> str:
        return f"{self.method} https://{self.host}{self.path}"


@dataclass
class Job:
    """A job or a node of a pipeline, and the process that runs its command."""

    name: str
    properties: dict[str, Any]
    status: str = "Starting"
    error: str = ""
    parent: str = ""
    node: str = ""
    logs: list[str] = field(default_factory=list)
    outputs: dict[str, str] = field(default_factory=dict)
    commands: list[str] = field(default_factory=list)
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)
    canceled: threading.Event = field(default_factory=threading.Event)
    ended: threading.Event = field(default_factory=threading.Event)

    def set_status(self, status: str) -> None:
        """Change the status, unless the job has ended."""
        if self.status not in ENDED:
            self.status = status
        if self.status in ENDED:
            self.ended.set()


class Cloud:
    """All that the stand-in knows. Tests read it, plant faults in it, and let tokens and signatures expire."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.machine: dict[str, str] = {}
        """Environment variables of the machines that run jobs."""
        self.lock = threading.RLock()
        self._tokens: dict[str, tuple[str, float]] = {}
        self.reset()

    def reset(self) -> None:
        """Forget everything but tokens, which clients keep; running jobs are canceled."""
        for job in list(getattr(self, "jobs", {}).values()):
            job.canceled.set()
        self.requests: list[Request] = []
        self.faults: list[Fault] = []
        self.errors: list[str] = []
        """Tracebacks of the stand-in itself, which no test should leave."""
        self.blobs: dict[str, dict[str, Blob]] = {}
        self.documents: dict[str, dict[str, Any]] = {}
        self.jobs: dict[str, Job] = {}
        self.computes = {"gpu-cluster": "AmlCompute", "arc-cluster": "Kubernetes"}
        self.registry: dict[tuple[str, str, str], Path] = {}
        """Folders of models, by registry (empty: the workspace), name and version."""
        self.secrets = {"hf-token": HUB_TOKEN}
        self.client_secret = CLIENT_SECRET
        self.device_code_polls = 1
        """Polls of a device code before its user has signed in."""
        self.device_audience = ""
        self.token_seconds = 3600
        self.signature_seconds = 3600
        self.has_machines = True
        """False: jobs stay queued."""
        self.page = 5000
        """Blobs on one page of a list."""
        self._signatures: dict[str, tuple[str, float]] = {}
        self._number = itertools.count(1)

    # Sign-in and signatures

    def issue_token(self, audience: str) -> str:
        """Return a token in the form of a JWT for an audience such as "https://management.azure.com"."""
        now = int(time.time())
        claims = {
            "tid": TENANT,
            "oid": "user",
            "sub": "user",
            "aud": audience,
            "iss": f"https://login.microsoftonline.com/{TENANT}/v2.0",
            "iat": now,
            "nbf": now - 5,
            "exp": now + self.token_seconds,
            "preferred_username": "dev@example.com",
        }
        number = base64.urlsafe_b64encode(f"{next(self._number):09}".encode()).decode()
        token = f"{encoded({'alg': 'RS256', 'typ': 'JWT'})}.{encoded(claims)}.{TOKEN_MARK}{number}"
        self._tokens[token] = (audience, now + self.token_seconds)
        return token

    def expire_tokens(self) -> None:
        """Let all tokens that were issued be refused, though their `exp` says otherwise."""
        self._tokens.clear()

    def unauthorized(self, call: Call, *audiences: str) -> Answer | None:
        """Return a 401 unless the request has a valid token for one of the audiences."""
        token = call.headers.get("authorization", "").removeprefix("Bearer ")
        audience, expires = self._tokens.get(token, ("", 0.0))
        if expires > time.time() and audience in audiences:
            return None
        code = "ExpiredAuthenticationToken" if token else "AuthenticationFailed"
        return refusal(401, code, "The access token is missing, has expired or is for another audience.")

    def sign(self, container: str) -> str:
        """Return the query of a shared access signature for a container."""
        expires = time.time() + self.signature_seconds
        signature = f"{SIGNATURE_MARK}{next(self._number)}="
        self._signatures[signature] = (container, expires)
        end = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(expires))
        return f"skoid=key&sv=2026-02-06&sr=c&se={quote(end)}&sp=rwl&sig={quote(signature)}"

    def expire_signatures(self) -> None:
        """Let all signatures that were issued be refused."""
        self._signatures.clear()

    def is_signed(self, container: str, signature: str) -> bool:
        signed, expires = self._signatures.get(signature, ("", 0.0))
        return signed == container and expires > time.time()

    # Files

    def put(self, container: str, name: str, data: bytes) -> None:
        self.blobs.setdefault(container, {})[name] = Blob(bytearray(data))

    def files(self, container: str, prefix: str = "") -> dict[str, bytes]:
        """Return the contents of all blobs below a prefix, by their names without it."""
        with self.lock:
            return {
                name[len(prefix) :].lstrip("/"): bytes(blob.data)
                for name, blob in self.blobs.get(container, {}).items()
                if name.startswith(prefix)
            }

    def put_data(self, path: str, file: Path, datastore: str = "workspaceblobstore") -> None:
        """Put a file, or all files of a folder, at a path of a datastore."""
        for source in sorted(file.rglob("*")) if file.is_dir() else [file]:
            if source.is_file():
                name = f"{path}/{source.relative_to(file).as_posix()}" if file.is_dir() else path
                self.put(DATASTORES[datastore], name, source.read_bytes())

    def snapshot(self, job: Job) -> dict[str, bytes]:
        """Return the files of the code that was submitted with a job."""
        code = self.documents[job.properties["codeId"].lower()]["properties"]["codeUri"]
        container, _, folder = code.split(f"{BLOBS}/", 1)[1].partition("/")
        return self.files(container, f"{folder}/" if folder else "")

    def log(self, job: Job, name: str | None = None) -> str:
        """Return a log of a job: the first one, or that of this name."""
        path = f"ExperimentRun/dcid.{job.name}/{name or job.logs[0]}"
        return bytes(self.blobs["azureml"][path].data).decode(errors="replace")

    # Requests

    def record(self, call: Call, status: int | str) -> None:
        query = {name: value for name, value in call.query.items() if name not in ("sig", "se")}
        version = call.query.get("api-version") or call.headers.get("x-ms-version", "")
        is_json = call.headers.get("content-type", "").startswith("application/json")
        try:
            body = call.json if is_json else None
        except ValueError:
            body = None
        agent = call.headers.get("user-agent", "")
        self.requests.append(Request(call.method, call.host, call.path, query, version, status, body, agent))

    def to(self, pattern: str) -> list[Request]:
        """Return the requests whose method and address match a pattern."""
        return [request for request in self.requests if re.search(pattern, request.address)]

    def fault(self, call: Call) -> Fault | None:
        """Return the fault that is planned for a request, and count it."""
        with self.lock:
            for fault in self.faults:
                if fault.times > 0 and re.search(fault.match, call.address):
                    fault.times -= 1
                    return fault
        return None

    def children(self, job: Job) -> Iterator[Job]:
        return (child for child in list(self.jobs.values()) if child.parent == job.name)


def encoded(value: Mapping[str, Any]) -> str:
    """Return a part of a JWT."""
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


def md5(data: bytes | bytearray) -> str:
    return base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()
