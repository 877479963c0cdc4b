"""Checkpoints that are whole or do not count: written aside, sealed with a manifest, renamed."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from phi_runtime.core.artifacts import folder_bytes, put_in_place, read_manifest, require_free_space, seal

_PREFIX = "checkpoint-"


@contextmanager
def staged(root: Path, step: int, facts: dict[str, Any]) -> Iterator[Path]:
    """A folder to write the checkpoint of `step` into, as `checkpoint-<step>` below it; on leaving, that is put into `root`.

    Several processes write into it, each its part. Raises OutOfResources before anything is written when the disk has not 1.2 times
    the last checkpoint's size free.
    """
    from phi_runtime.training.processes import (
        is_first,
        wait_for_all,
    )  # with torch, which whoever only looks has no need of

    aside = root / ".partial"
    if is_first():
        if last := newest(root)[0]:
            require_free_space(root, int(1.2 * folder_bytes(last)), "saving a checkpoint")
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
    wait_for_all()
    yield aside
    wait_for_all()
    if is_first():
        folder = folder_of(aside, step)
        seal(folder, key=str(step), kind="checkpoint", facts=facts)
        put_in_place(folder, folder_of(root, step))
        shutil.rmtree(aside, ignore_errors=True)
    wait_for_all()


def folder_of(root: Path, step: int) -> Path:
    """The checkpoint of `step`."""
    return root / f"{_PREFIX}{step}"


def _steps(root: Path) -> list[tuple[int, Path]]:
    found = [(p.name.removeprefix(_PREFIX), p) for p in root.glob(f"{_PREFIX}*")]
    return sorted((int(step), path) for step, path in found if step.isdigit())


def newest(root: Path) -> tuple[Path | None, list[Path]]:
    """The newest whole checkpoint in `root`, and the broken ones that are newer."""
    broken: list[Path] = []
    for _, path in reversed(_steps(root)):
        if read_manifest(path) is not None:
            return path, broken
        broken.append(path)
    return None, broken


def facts_of(checkpoint: Path) -> dict[str, Any]:
    """What was said of a whole checkpoint when it was saved."""
    manifest = read_manifest(checkpoint)
    return manifest.facts if manifest else {}


def rotate(root: Path, keep: int, best: int | None = None) -> None:
    """Removes all but the newest `keep` checkpoints, and the one of the step `best`."""
    for step, path in _steps(root)[:-keep]:
        if step != best:
            shutil.rmtree(path, ignore_errors=True)
