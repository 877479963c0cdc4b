"""A stand-in of the Hugging Face hub for data sets, on this machine: no test here reaches the real one.

It speaks what datasets 5.2 and huggingface_hub 2.4 ask of https://huggingface.co: the facts of a data set, its tree, and its files,
of which Parquet ones are handed out by another address, as large files are there.
"""

from __future__ import annotations

import hashlib
import http.server
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

COMMIT = "c" * 40
OTHER_COMMIT = "b" * 40
TOKEN = "hf_good"


@dataclass
class Repository:
    """A data set: its files by path, those of another commit (the branches `v1` and refs/convert/parquet), and who may read it."""

    files: dict[str, bytes]
    other: dict[str, bytes] = field(default_factory=dict)
    card: dict[str, Any] = field(default_factory=dict)
    private: bool = False
    gated: bool = False

    def commit(self, revision: str) -> str:
        if revision in ("main", COMMIT):
            return COMMIT
        return OTHER_COMMIT if self.other and revision in ("v1", "refs/convert/parquet", OTHER_COMMIT) else ""

    def at(self, commit: str) -> dict[str, bytes]:
        return self.other if commit == OTHER_COMMIT else self.files


class HubStandIn(http.server.ThreadingHTTPServer):
    """The server. `requests` are those that came: method, path, headers."""

    daemon_threads = True

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.moved: dict[str, str] = {}
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self.break_after: int | None = None  # bytes of a data file, after which the connection is cut
        self.fails_with: int | None = None
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    @property
    def paths(self) -> list[str]:
        return [path for _, path, _ in self.requests]


@contextmanager
def hub_stand_in() -> Iterator[HubStandIn]:
    """The server, running until the end of the block."""
    server = HubStandIn()
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


class _Handler(http.server.BaseHTTPRequestHandler):
    server: HubStandIn
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # or each answer waits 40 ms for its second half

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self.take()

    def do_HEAD(self) -> None:
        self.take()

    def do_POST(self) -> None:
        self.take()

    def take(self) -> None:
        self.server.requests.append((self.command, self.path, dict(self.headers)))
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = unquote(urlsplit(self.path).path)
        if self.server.fails_with:
            return self.refuse(self.server.fails_with, "", "Internal Error")
        if match := re.fullmatch(r"/large/([0-9a-f]{64})", path):
            return self.large_file(match[1])
        if match := re.fullmatch(
            r"/api/datasets/([\w.-]+(?:/(?!revision|tree|paths-info|auth-check)[\w.-]+)?)(/.*)?", path
        ):
            return self.api(match[1], match[2] or "")
        if match := re.fullmatch(r"/datasets/([\w.-]+/[\w.-]+)/resolve/(refs/[^/]+/[^/]+|[^/]+)/(.+)", path):
            return self.resolve(*match.groups())
        return self.refuse(404, "", "Not Found")

    def api(self, name: str, what: str) -> None:
        if name in self.server.moved:
            where = self.path.replace(name, self.server.moved[name], 1)
            return self.answer(307, b"", {"Location": self.server.address + where})
        if not (repository := self.readable(name)):
            return None
        if what == "/auth-check":
            return self.closed(name) if self.gate_is_shut(repository) else self.answer_json({})
        match = re.fullmatch(r"(?:/(revision|tree|paths-info)/(refs/[^/]+/[^/]+|[^/]+)(?:/(.*))?)?", what)
        if not match:
            return self.refuse(404, "", "Not Found")
        commit = repository.commit(match[2] or "main")
        if not commit:
            return self.refuse(404, "RevisionNotFound", f"Invalid rev id: {match[2]}")
        files = repository.at(commit)
        if match[1] == "tree":
            return self.tree(files, match[3] or "")
        if match[1] == "paths-info":
            return self.answer_json([e for path in self.asked_paths() if (e := _entry(files, path.strip("/")))])
        facts = {
            "id": name,
            "sha": commit,
            "private": repository.private,
            "gated": "auto" if repository.gated else False,
            "siblings": [{"rfilename": path} for path in files],
            "cardData": repository.card,
        }
        return self.answer_json(facts)

    def tree(self, files: dict[str, bytes], folder: str) -> None:
        prefix = f"{folder}/" if folder else ""
        below = [path for path in files if path.startswith(prefix)]
        if not below:
            return self.refuse(404, "EntryNotFound", f"{folder} does not exist")
        found = below
        folders = {path[: m.start()] for path in below for m in re.finditer("/", path) if m.start() >= len(prefix)}
        if "recursive=true" not in self.path.lower():
            found = [path for path in below if "/" not in path[len(prefix) :]]
            folders = {path for path in folders if "/" not in path[len(prefix) :]}
        return self.answer_json([_entry(files, path) for path in sorted(folders) + sorted(found)])

    def asked_paths(self) -> list[str]:
        if "json" in self.headers.get("Content-Type", ""):
            return list(json.loads(self.body)["paths"])
        return parse_qs(self.body.decode())["paths"]

    def resolve(self, name: str, revision: str, path: str) -> None:
        if not (repository := self.readable(name)):
            return None
        if self.gate_is_shut(repository):
            return self.closed(name)
        commit = repository.commit(revision)
        if not commit:
            return self.refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        headers = {"X-Repo-Commit": commit}
        if path not in repository.at(commit):
            return self.refuse(404, "EntryNotFound", "Entry not found", headers)
        content = repository.at(commit)[path]
        digest = hashlib.sha256(content).hexdigest()
        if path.endswith(".parquet"):
            headers |= {"X-Linked-Size": str(len(content)), "X-Linked-ETag": f'"{digest}"'}
            return self.answer(
                302,
                b"",
                headers | {"Location": f"http://localhost:{self.server.server_port}/large/{digest}?Signature=secret"},
            )
        return self.file(content, headers | {"ETag": f'"{digest}"'})

    def large_file(self, digest: str) -> None:
        contents = (c for r in self.server.repositories.values() for c in [*r.files.values(), *r.other.values()])
        for content in contents:
            if hashlib.sha256(content).hexdigest() == digest:
                return self.file(content, {"ETag": f'"{digest}"'})
        return self.refuse(404, "", "Not Found")

    def file(self, content: bytes, headers: dict[str, str]) -> None:
        headers = headers | {"Accept-Ranges": "bytes"}
        if requested := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            start, end = int(requested[1]), min(int(requested[2] or len(content)), len(content) - 1)
            headers["Content-Range"] = f"bytes {start}-{end}/{len(content)}"
            return self.answer(206, content[start : end + 1], headers, start)
        return self.answer(200, content, headers)

    def readable(self, name: str) -> Repository | None:
        """The data set, or None after the answer that the hub gives for one that is absent or private."""
        repository = self.server.repositories.get(name)
        token = self.headers.get("Authorization")
        if token not in (None, f"Bearer {TOKEN}"):
            self.refuse(401, "", "Invalid credentials in Authorization header")
            return None
        if repository is None or (repository.private and token is None):
            self.refuse(404 if token else 401, "RepoNotFound", "Repository not found")
            return None
        return repository

    def gate_is_shut(self, repository: Repository) -> bool:
        return repository.gated and self.headers.get("Authorization") != f"Bearer {TOKEN}"

    def closed(self, name: str) -> None:
        self.refuse(403, "GatedRepo", f"Access to dataset {name} is restricted")

    def refuse(self, status: int, code: str, message: str, headers: dict[str, str] | None = None) -> None:
        headers = {**(headers or {}), "X-Error-Message": message, **({"X-Error-Code": code} if code else {})}
        self.answer(status, json.dumps({"error": message}).encode(), headers)

    def answer_json(self, value: Any) -> None:
        self.answer(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def answer(self, status: int, body: bytes, headers: dict[str, str], start: int = 0) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        limit = self.server.break_after
        if limit is not None and "Accept-Ranges" in headers and start + len(body) > limit:
            self.wfile.write(body[: max(limit - start, 0)])
            self.wfile.flush()
            self.close_connection = True
            self.connection.close()
            return
        self.wfile.write(body)


def _entry(files: dict[str, bytes], path: str) -> dict[str, Any]:
    if path in files:
        content = files[path]
        entry = {"type": "file", "oid": hashlib.sha1(content).hexdigest(), "size": len(content), "path": path}
        if path.endswith(".parquet"):
            entry["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}
        return entry
    if any(file.startswith(f"{path}/") for file in files):
        return {"type": "directory", "oid": hashlib.sha1(path.encode()).hexdigest(), "size": 0, "path": path}
    return {}
