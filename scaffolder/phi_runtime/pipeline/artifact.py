"""Build the artifact of a stage in its work folder, and find work that was interrupted there."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from phi_runtime.core.artifacts import Manifest, discard_previous, put_in_place, read_object, seal, write_json
from phi_runtime.core.project import ProjectFolder
from phi_runtime.pipeline.stage import Stage, record_output
from phi_runtime.training.checkpoints import newest

FAILED, INPUTS, CHECKPOINTS = "failed.json", "inputs.json", "checkpoints"  # in a work folder

Work = Callable[[Path], dict[str, Any]]
"""Fills the staging folder that it gets and returns the facts for the manifest."""


def make_stage(stage: Stage, kind: str, work_dir: Path, work: Work) -> None:
    """Run `work` in the staging folder `work_dir`/out, seal the result and move it to the stage's target.

    Checkpoints and caches in `work_dir` survive a failure, so that the next attempt can resume; it is removed at the end.
    """
    staging_dir = work_dir / "out"
    shutil.rmtree(staging_dir, ignore_errors=True)
    staging_dir.mkdir(parents=True)
    (work_dir / FAILED).unlink(missing_ok=True)
    inputs = {"inputs": stage.inputs, "origins": stage.origins()}
    write_json(work_dir / INPUTS, inputs)
    facts = work(staging_dir)
    manifest = seal(staging_dir, key=stage.key, kind=kind, facts={**facts, **inputs})
    put_in_place(staging_dir, stage.target)
    finish_stage(stage.target, manifest, work_dir)


def finish_stage(target: Path, manifest: Manifest, work_dir: Path) -> None:
    """Record an artifact that is in place, and remove what its build leaves; also if that build was killed at its end."""
    record_output(target, manifest)
    discard_previous(target)
    shutil.rmtree(work_dir, ignore_errors=True)


def work_root(project: ProjectFolder) -> Path:
    """Return the folder of unfinished work."""
    return project.gen_model / ".work"


def work_folder(project: ProjectFolder, stage: Stage) -> Path:
    """Return the stage's work folder; its key is part of the name, so that only the same work resumes there."""
    return work_root(project) / f"{stage.name}-{stage.key[:16]}"


def work_folders(project: ProjectFolder, name: str) -> list[Path]:
    """Return all work folders of the stage `name`, for any inputs, the latest first."""
    folders = work_root(project).glob(f"{name}-{'[0-9a-f]' * 16}")
    return sorted(folders, key=lambda folder: folder.stat().st_mtime_ns, reverse=True)


def interrupted_work(project: ProjectFolder, stage: Stage) -> str | None:
    """Describe a training that was interrupted and cannot resume because its inputs changed.

    None if there is no such training, or if this stage has its own checkpoint to resume from.
    """
    own = work_folder(project, stage)
    if newest(own / CHECKPOINTS)[0]:
        return None
    for folder in work_folders(project, stage.name):
        checkpoint = newest(folder / CHECKPOINTS)[0]
        if folder != own and checkpoint:
            facts = read_object(folder / INPUTS)
            step = checkpoint.name.rpartition("-")[2]
            return f"interrupted at step {step}; cannot resume because {stage.changes_since(facts)}"
    return None
