"""Download the outputs of a job into gen-model/: by range, resumed, checked by SHA-256, and in place only if complete."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from phi_runtime.core.artifacts import MANIFEST, put_in_place, read_json, read_manifest
from phi_runtime.core.errors import Conflict, Location, NetworkError, UsageError, WorkFailed
from phi_runtime.core.events import Emit, Event
from phi_runtime.core.locks import exclusive
from phi_runtime.core.project import ProjectFolder
from phi_runtime.core.suggestions import did_you_mean
from phi_runtime.remote.engine import RemoteEngine, RemoteFile
from phi_runtime.remote.worker import OUTPUT_MANIFEST

PARTS = ".remote"
"""Folder in gen-model/ of downloads that are not complete, by name of the job."""
_TRIES = 5


@dataclass(frozen=True)
class Downloaded:
    """Artifacts that were downloaded, those that were here already, and the bytes that came."""

    artifacts: tuple[str, ...]
    present: tuple[str, ...]
    size_bytes: int


def download(
    engine: RemoteEngine, name: str, project: ProjectFolder, emit: Emit, only: Sequence[str] = ()
) -> Downloaded:
    """Download the outputs of the job `name`.

    Args:
        engine: The engine of the job.
        name: Name of the job.
        project: The project, in whose gen-model/ they are put.
        emit: Receives progress.
        only: Folders of gen-model/ to download, such as `adapter`, and nothing else; default: all.

    Raises:
        UsageError: The job has no folder of `only`.
        NetworkError: The job has no outputs, or one of them arrives damaged.
        Conflict: A run is active in the project.
    """
    listed = {file.name: file for file in engine.outputs(name)}
    if OUTPUT_MANIFEST not in listed:
        raise NetworkError(f"the job {name} has no outputs", fix=f"see its log: phi-scaffold remote logs {name}")
    parts = project.gen_model / PARTS / name
    parts.mkdir(parents=True, exist_ok=True)
    (parts / OUTPUT_MANIFEST).unlink(missing_ok=True)
    started = time.monotonic()
    emit(Event("stage-started", "download", {"index": 1, "count": 1}))
    loader = _Loader(engine, name, parts, emit)
    manifest = json.loads(loader.load(listed[OUTPUT_MANIFEST], "").read_bytes())
    described: dict[str, Any] = manifest["files"]
    if only:
        folders = sorted({_top(file) for file in described})
        if unknown := [folder for folder in only if folder not in folders]:
            raise UsageError(
                f"the job {name} has no `{unknown[0]}`{did_you_mean(unknown[0], folders)}",
                fix=f"use one of {', '.join(folders)}",
            )
        described = {file: facts for file, facts in described.items() if _top(file) in only}
    if lost := [file for file in described if file not in listed]:
        raise NetworkError(
            f"{len(lost)} outputs of {name} are gone, such as {lost[0]}", fix="run the job again with --force"
        )
    described = {file: facts for file, facts in described.items() if _is_safe(file)}
    folders = sorted(_top(file) for file in described if file == f"{_top(file)}/{MANIFEST}")
    present = []
    for folder in folders:
        inner = f"{folder}/{MANIFEST}"
        remote = read_json(loader.load(listed[inner], described[inner]["sha256"]))
        local = read_manifest(project.gen_model / folder)
        if local is not None and local.content == remote.get("content"):
            described = {file: facts for file, facts in described.items() if _top(file) != folder}
            present.append(folder)
    missing = sum(facts["bytes"] - _size(parts / file) for file, facts in described.items())
    loader.total_bytes = loader.loaded_bytes + missing
    for file, facts in described.items():
        loader.load(listed[file], facts["sha256"])
    loaded = [folder for folder in folders if f"{folder}/{MANIFEST}" in described]
    with exclusive(project.run_lock):
        _put_in_place(project, parts, loaded, described)
    shutil.rmtree(parts, ignore_errors=True)
    finished = {"state": "done", "output": project.shown(project.gen_model)}
    emit(Event("stage-finished", "download", {**finished, "wall_s": round(time.monotonic() - started, 2)}))
    return Downloaded(tuple(loaded), tuple(present), loader.loaded_bytes)


class _Loader:
    """Downloads files into a folder, and continues those that are there in part."""

    def __init__(self, engine: RemoteEngine, name: str, folder: Path, emit: Emit) -> None:
        self.engine, self.name, self.folder, self.emit = engine, name, folder, emit
        self.loaded_bytes = self.total_bytes = 0

    def load(self, file: RemoteFile, sha256: str) -> Path:
        """Download `file`, and return its path. Raises NetworkError if its content is not that of `sha256`."""
        path = self.folder / file.name
        path.parent.mkdir(parents=True, exist_ok=True)
        for attempt in range(_TRIES):
            if path.is_file() and path.stat().st_size > file.size_bytes:
                path.unlink()
            try:
                self._continue(file, path)
            except NetworkError:
                if attempt == _TRIES - 1:
                    raise
                continue
            with path.open("rb") as content:
                if not sha256 or hashlib.file_digest(content, "sha256").hexdigest() == sha256:
                    return path
            path.unlink()
        raise NetworkError(
            f"{file.name} of {self.name} arrives damaged", fix=f"phi-scaffold remote download {self.name}"
        )

    def _continue(self, file: RemoteFile, path: Path) -> None:
        start = _size(path)
        with path.open("ab") as target:
            if start < file.size_bytes:
                for data in self.engine.read(self.name, file, start):
                    target.write(data)
                    self.loaded_bytes += len(data)
                    progress = {"done": self.loaded_bytes, "total": self.total_bytes or None, "unit": "bytes"}
                    self.emit(Event("progress", "download", progress))


def _put_in_place(project: ProjectFolder, parts: Path, artifacts: Sequence[str], described: dict[str, Any]) -> None:
    for folder in artifacts:
        target = project.gen_model / folder
        if target.is_symlink():
            raise Conflict(f"{project.shown(target)} is a link", where=Location(target), fix="remove it")
        if read_manifest(parts / folder) is None:
            raise WorkFailed(
                f"the artifact `{folder}` of the job is not complete", fix="run the job again with --force"
            )
        put_in_place(parts / folder, target)
    for file in described:
        source, target = parts / file, project.gen_model / file
        if _top(file) in artifacts or not source.is_file():
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        source.replace(target)


def _top(file: str) -> str:
    return file.partition("/")[0]


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _is_safe(name: str) -> bool:
    """Return True for a path that stays below gen-model/."""
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts and "\\" not in name and ":" not in name
