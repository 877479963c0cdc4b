"""The files of a project that a job needs: a list that names each one, so that nothing else is ever sent.

A folder is never taken as it is: it may hold credentials (.env, .git/config), environments and models.
"""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import dataclass
from pathlib import Path

from phi_runtime.config.file_search import paths_below
from phi_runtime.config.parse import EVALUATION
from phi_runtime.config.paths import data_paths, resolve
from phi_runtime.config.schema import Datastore, Workflow
from phi_runtime.config.sidecars import sidecar_path
from phi_runtime.core.artifacts import digest, file_digest
from phi_runtime.core.errors import Location, UsageError
from phi_runtime.core.project import ProjectFolder
from phi_runtime.data.hooks import script_of

NEVER = frozenset({".git", ".env", ".venv", "venv", "model-cache", "gen-model", "__pycache__"})
"""Names of files and folders that no snapshot has, whatever a config names."""
LARGEST_BYTES = 200_000_000
"""Larger files are inputs (`--upload`): a snapshot is stored again with each change."""


@dataclass(frozen=True)
class SnapshotFile:
    """One file: its path in the project, with forward slashes; the file on this machine, or its content if it has none."""

    name: str
    source: Path | None = None
    content: bytes = b""

    @property
    def size_bytes(self) -> int:
        return self.source.stat().st_size if self.source else len(self.content)

    @property
    def digest(self) -> str:
        return file_digest(self.source) if self.source else hashlib.sha256(self.content).hexdigest()


@dataclass(frozen=True)
class Snapshot:
    """The files of a job, by name."""

    files: tuple[SnapshotFile, ...]

    @property
    def size_bytes(self) -> int:
        return sum(file.size_bytes for file in self.files)

    @property
    def digests(self) -> dict[str, str]:
        """Digest of each file by its name."""
        return {file.name: file.digest for file in self.files}

    def write(self, folder: Path) -> None:
        """Copy the files into `folder`, which is empty. Links are copied as the files that they lead to."""
        for file in self.files:
            target = folder / file.name
            target.parent.mkdir(parents=True, exist_ok=True)
            if file.source:
                shutil.copyfile(file.source, target)
            else:
                target.write_bytes(file.content)


def project_files(project: ProjectFolder, workflow: Workflow, skipped: frozenset[Path] = frozenset()) -> Snapshot:
    """Return the files of a project that its workflow reads: config, evaluation.json, Python files, adapter and data.

    Args:
        skipped: Data that is an input of the job, and not in its snapshot.

    Raises:
        UsageError: A file is outside of the project, a link leads out of it, or it is one that is never sent.
    """
    config = project.config
    paths = [config, sidecar_path(config, EVALUATION), *sorted(config.parent.glob("*.py"))]
    for data in workflow.data_configs:
        if not isinstance(data.load_dataset_config.data_files, Datastore) and data.load_dataset_config.format:
            paths += [found.path for found in data_paths(data, config)]
        script, _ = script_of(data, config)
        folder = data.pre_process_data_config.script_dir if script else None
        paths += [*([script] if script else []), *(_files(resolve(folder, config).path, "*.py") if folder else ())]
    adapter = workflow.input_model.adapter_path and resolve(workflow.input_model.adapter_path, config).path
    if adapter and adapter.is_dir():
        paths += [adapter / name for name in ("adapter_config.json", "adapter_model.safetensors")]
    names = {_name(path, project): path for path in paths if path.is_file() and path not in skipped}
    return Snapshot(tuple(SnapshotFile(name, path) for name, path in sorted(names.items())))


def content_digest(path: Path) -> str:
    """Return the digest of a file, or of the files of a folder with their names; without those that are never sent."""
    folder, files = (path.parent, [path]) if path.is_file() else (path, _files(path, "*"))
    return digest([[file.relative_to(folder).as_posix(), file_digest(file)] for file in files])


def _files(folder: Path, pattern: str) -> list[Path]:
    return [path for path in paths_below(folder, NEVER) if path.match(pattern) and path.is_file()]


def _name(path: Path, project: ProjectFolder) -> str:
    """Return the path of a file in the project. Raises UsageError if it may not be sent."""
    root = project.root.absolute()
    if not path.is_relative_to(root):
        raise UsageError(
            f"`{path}` is outside of the project",
            where=Location(project.config),
            fix=f"copy it into {root / 'datasets'}",
        )
    if not path.resolve().is_relative_to(root.resolve()):
        raise UsageError(
            f"the link `{project.shown(path)}` leads out of the project",
            where=Location(path),
            fix="replace it with the file",
        )
    name = path.relative_to(root)
    for parts in (name.parts, path.resolve().relative_to(root.resolve()).parts):
        if never := NEVER.intersection(parts):
            raise UsageError(
                f"`{project.shown(path)}` is in `{min(never)}`, of which nothing is sent to another machine",
                where=Location(path),
                fix="move it into datasets/ or fine-tuning/",
            )
    if path.stat().st_size > LARGEST_BYTES:
        raise UsageError(
            f"`{project.shown(path)}` has {path.stat().st_size / 1e6:.0f} MB, too much for a snapshot",
            where=Location(path),
            fix="pass --upload, which stores it as a data asset",
        )
    return name.as_posix()
