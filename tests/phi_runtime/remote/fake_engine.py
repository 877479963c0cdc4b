"""An engine in memory, whose jobs end when their list of states does."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from phi_runtime.core.errors import NetworkError
from phi_runtime.remote.engine import JobState, LogChunk, RemoteFile, Status
from phi_runtime.remote.job import RemoteJob


@dataclass
class FakeEngine:
    """`states` are those that status answers, in order; `breaks` are reads that fail after this many bytes."""

    states: list[JobState] = field(default_factory=lambda: ["done"])
    log: bytes = b""
    files: dict[str, bytes] = field(default_factory=dict)
    breaks: list[int] = field(default_factory=list)
    jobs: dict[str, list[JobState]] = field(default_factory=dict)
    submitted: list[str] = field(default_factory=list)
    reads: list[tuple[str, int]] = field(default_factory=list)
    name: str = "fake"
    shares_disk: bool = False

    def render(self, job: RemoteJob) -> dict[str, str]:
        return {"job.yaml": job.name}

    def submit(self, job: RemoteJob) -> Status:
        self.submitted.append(job.name)
        return Status(job.name, "queued", "Queued")

    def status(self, name: str) -> Status | None:
        states = self.jobs.get(name, self.states if not self.jobs else [])
        if not states:
            return None
        state = states.pop(0) if len(states) > 1 else states[0]
        return Status(name, state, state.title())

    def logs(self, name: str, offsets: Mapping[str, int]) -> Iterator[LogChunk]:
        start = offsets.get("std_log.txt", 0)
        if self.log[start : start + 40]:  # in pieces that end within lines
            yield LogChunk("std_log.txt", start, self.log[start : start + 40])

    def cancel(self, name: str) -> None: ...

    def outputs(self, name: str) -> list[RemoteFile]:
        return [RemoteFile(file, len(content)) for file, content in self.files.items()]

    def read(self, name: str, file: RemoteFile, offset: int) -> Iterator[bytes]:
        self.reads.append((file.name, offset))
        content = self.files[file.name][offset:]
        if self.breaks and file.name != "remote.json":
            yield content[: self.breaks.pop(0)]
            raise NetworkError("the connection was dropped")
        yield content

    def add_outputs(self, folder: Path) -> None:
        """Take the files of `folder` as outputs, with the manifest of a job."""
        for path in folder.rglob("*"):
            if path.is_file():
                self.files[path.relative_to(folder).as_posix()] = path.read_bytes()
        facts = {
            name: {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
            for name, content in self.files.items()
        }
        self.files["remote.json"] = json.dumps({"exit_code": 0, "files": facts}).encode()
