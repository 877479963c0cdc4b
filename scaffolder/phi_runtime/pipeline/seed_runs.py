"""Trainings of one pass with other seeds, in gen-model/seeds/<pass>/seed-<n>/: their evaluations, and those that are up to date.

Each seed has a gen-model/ of its own there, with the record of its runs. seeds.json next to them names the finished ones, and the
inputs of the evaluation that they belong to: once these change, the seeds count no longer.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from phi_runtime.core.artifacts import digest, read_json, read_manifest, write_json
from phi_runtime.core.project import ProjectFolder

FOLDER, FACTS = "seeds", "seeds.json"


def seed_folder(project: ProjectFolder, training: str, seed: int) -> Path:
    """Return the folder that is the gen-model/ of a seed."""
    return project.gen_model / FOLDER / training / f"seed-{seed}"


def seed_evaluations(project: ProjectFolder, training: str, inputs: Mapping[str, Any]) -> dict[int, Path]:
    """Return the folders of the evaluations of other seeds that are up to date, by seed.

    Args:
        inputs: What is measured in the evaluation of the project's own seed.
    """
    try:
        facts = read_json(project.gen_model / FOLDER / training / FACTS)
        known = facts["seeds"].items() if facts["of"] == digest(inputs) else ()
        folders = {int(seed): project.gen_model / FOLDER / training / path for seed, path in known}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
    return {seed: folders[seed] for seed in sorted(folders) if read_manifest(folders[seed])}


def record_seed(project: ProjectFolder, training: str, inputs: Mapping[str, Any], seed: int, evaluation: Path) -> None:
    """Record a finished seed; seeds of other inputs are forgotten."""
    known = seed_evaluations(project, training, inputs)
    if known.get(seed) == evaluation:
        return
    folder = project.gen_model / FOLDER / training
    seeds = {str(other): path.relative_to(folder).as_posix() for other, path in {**known, seed: evaluation}.items()}
    write_json(folder / FACTS, {"of": digest(inputs), "seeds": seeds})
