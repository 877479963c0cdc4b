"""The files of a job: those that the workflow reads, and no others."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import phi_runtime
import phi_scaffold
from phi_runtime.core.errors import UsageError
from phi_runtime.core.project import ProjectFolder
from phi_runtime.pipeline.load import load_workflow
from phi_runtime.remote.package import ARCHIVE, FOLDER, UNPACK, package
from phi_runtime.remote.snapshot import Snapshot, SnapshotFile, project_files

PACKAGES = [Path(phi_runtime.__file__).parent, Path(phi_scaffold.__file__).parent]


NEVER_IN_A_JOB = ("phi_scaffold.remote", "phi_scaffold.new")  # submissions, and completions in a shell


def snapshot_of(project: ProjectFolder) -> Snapshot:
    return project_files(project, load_workflow(project.config))


def change_data(project: ProjectFolder, **load: Any) -> None:
    config = json.loads(project.config.read_text())
    config["data_configs"][0]["load_dataset_config"] |= load
    project.config.write_text(json.dumps(config))


def test_a_snapshot_has_the_files_that_the_workflow_reads(remote_project: ProjectFolder) -> None:
    names = [file.name for file in snapshot_of(remote_project).files]
    assert names == [
        "datasets/train.jsonl",
        "fine-tuning/evaluation.json",
        "fine-tuning/hooks.py",
        "fine-tuning/olive-config.json",
    ]


def test_a_written_snapshot_has_these_files_and_no_secret(remote_project: ProjectFolder, tmp_path: Path) -> None:
    snapshot = snapshot_of(remote_project)
    snapshot.write(tmp_path / "out")
    written = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert len(written) == len(snapshot.files)
    assert sum(path.stat().st_size for path in written) == snapshot.size_bytes
    assert not any("CANARY" in path.read_text() for path in written)


@pytest.mark.parametrize("never", [".env", ".git/config", "gen-model/adapter/a.bin", "model-cache/x/model.safetensors"])
def test_files_that_are_never_sent_are_refused_even_as_data(remote_project: ProjectFolder, never: str) -> None:
    (remote_project.root / never).write_text('{"phrase": "a", "tone": "joy"}\n')
    change_data(remote_project, data_files=f"../{never}")
    with pytest.raises(UsageError, match="nothing is sent"):
        snapshot_of(remote_project)


def test_a_link_that_leads_out_of_the_project_is_refused(remote_project: ProjectFolder, tmp_path: Path) -> None:
    data = remote_project.root / "datasets" / "train.jsonl"
    data.replace(tmp_path / "elsewhere.jsonl")
    data.symlink_to(tmp_path / "elsewhere.jsonl")
    with pytest.raises(UsageError, match="leads out of the project") as failure:
        snapshot_of(remote_project)
    assert failure.value.where
    assert failure.value.where.path == data


def test_a_link_to_a_file_that_is_never_sent_is_refused(remote_project: ProjectFolder) -> None:
    data = remote_project.root / "datasets" / "train.jsonl"
    data.replace(remote_project.root / ".env")
    data.symlink_to(remote_project.root / ".env")
    with pytest.raises(UsageError, match="nothing is sent"):
        snapshot_of(remote_project)


def test_data_outside_of_the_project_is_refused(remote_project: ProjectFolder, tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text('{"phrase": "a", "tone": "joy"}\n')
    change_data(remote_project, data_files=str(tmp_path / "train.jsonl"))
    with pytest.raises(UsageError, match="outside of the project"):
        snapshot_of(remote_project)


@pytest.fixture(scope="module")
def packed() -> SnapshotFile:
    return package(PACKAGES, phi_scaffold.__version__)


def test_the_package_has_the_same_bytes_each_time_and_runs_the_command(packed: SnapshotFile, tmp_path: Path) -> None:
    assert packed.content == package(PACKAGES, phi_scaffold.__version__).content
    assert len(packed.content) < 930_000  # 1 MB with the data of the demo
    (tmp_path / ARCHIVE).write_bytes(packed.content)
    subprocess.run([sys.executable, *UNPACK[1:]], cwd=tmp_path, check=True)
    environment = {**os.environ, "PYTHONPATH": FOLDER}
    command = [sys.executable, "-m", "phi_scaffold", "run", "--help"]
    shown = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert "--until" in shown.stdout


def test_the_package_has_every_module_that_run_imports(packed: SnapshotFile, tmp_path: Path) -> None:
    (tmp_path / ARCHIVE).write_bytes(packed.content)
    subprocess.run([sys.executable, *UNPACK[1:]], cwd=tmp_path, check=True)
    modules, packed = modules_in(PACKAGES[0].parent), modules_in(tmp_path / FOLDER)
    waiting = ["phi_runtime.remote.worker", "phi_scaffold.__main__", "phi_scaffold.cli.run"]
    waiting += [name for name in modules if name.startswith("phi_runtime.passes.")]
    imported: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name in modules and name not in imported and not name.startswith(NEVER_IN_A_JOB):
            imported.add(name)
            waiting += [name.rpartition(".")[0], *imports_of(modules[name])]
    assert sorted(imported - packed.keys()) == []
    assert len(packed) < len(modules) - 100


def modules_in(folder: Path) -> dict[str, Path]:
    """Return the modules of our packages in a folder, by name."""
    return {
        ".".join(path.relative_to(folder).with_suffix("").parts).removesuffix(".__init__"): path
        for path in folder.glob("phi_*/**/*.py")
    }


def imports_of(path: Path) -> Iterator[str]:
    """Yield the modules that a file imports or starts, perhaps with names in them, in functions too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (node.module, *(f"{node.module}.{alias.name}" for alias in node.names))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
