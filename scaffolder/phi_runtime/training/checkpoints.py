"""Checkpoints that are complete or absent: written to a staging folder, sealed with a manifest, renamed."""

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
    """Provide a staging folder for the checkpoint of `step`, and move the checkpoint into `root` at the end.

    The checkpoint is to be written as `checkpoint-<step>` in the staging folder. Several processes may each write their part.

    Args:
        root: Folder of the checkpoints.
        step: Optimizer step.
        facts: Facts for the manifest; see `read_facts`.

    Raises:
        OutOfResources: The disk has less than 1.2 times the size of the last checkpoint free. Nothing is written then.
    """
    # Imports torch, which callers that only look for checkpoints do not need.
    from phi_runtime.training.process_group import barrier, is_main_process

    staging_dir = root / ".partial"
    if is_main_process():
        if last := newest(root)[0]:
            require_free_space(root, int(1.2 * folder_bytes(last)), "saving a checkpoint")
        shutil.rmtree(staging_dir, ignore_errors=True)
        staging_dir.mkdir(parents=True)
    barrier()
    yield staging_dir
    barrier()
    if is_main_process():
        folder = checkpoint_folder(staging_dir, step)
        seal(folder, key=str(step), kind="checkpoint", facts=facts)
        put_in_place(folder, checkpoint_folder(root, step))
        shutil.rmtree(staging_dir, ignore_errors=True)
    barrier()


def checkpoint_folder(root: Path, step: int) -> Path:
    """Return the folder of the checkpoint of a step."""
    return root / f"{_PREFIX}{step}"


def _by_step(root: Path) -> list[tuple[int, Path]]:
    folders = [(path.name.removeprefix(_PREFIX), path) for path in root.glob(f"{_PREFIX}*")]
    return sorted((int(step), path) for step, path in folders if step.isdigit())


def newest(root: Path) -> tuple[Path | None, list[Path]]:
    """Return the newest complete checkpoint in `root`, and the incomplete ones that are newer."""
    incomplete: list[Path] = []
    for _, path in reversed(_by_step(root)):
        if read_manifest(path) is not None:
            return path, incomplete
        incomplete.append(path)
    return None, incomplete


def read_facts(checkpoint: Path) -> dict[str, Any]:
    """Return the facts that a complete checkpoint was saved with."""
    manifest = read_manifest(checkpoint)
    return manifest.facts if manifest else {}


def rotate(root: Path, keep: int, best_step: int | None = None) -> None:
    """Delete all checkpoints but the newest `keep` and the one of `best_step`."""
    for step, path in _by_step(root)[:-keep]:
        if step != best_step:
            shutil.rmtree(path, ignore_errors=True)
