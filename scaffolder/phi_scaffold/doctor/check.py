"""The result of a check, and the plan of the project that the checks are for."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from phi_runtime.config.schema import Workflow
from phi_runtime.core.errors import PhiError, first_line
from phi_runtime.core.project import ProjectFolder
from phi_runtime.core.units import size

Level = Literal["good", "note", "error"]


@dataclass(frozen=True)
class Check:
    """The result of one check. An `error` stops `run`, a `note` may matter; `value` is its machine-readable result."""

    level: Level
    subject: str
    message: str
    fix: str = ""
    value: Any = None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Needs:
    """Requirements of the next `run` of a project; none outside of a project.

    Attributes:
        gpu: The config's host has a GPU.
        download: The base model must come from the hub: it is not on this machine, and in no package.
        disk_bytes: Estimated size of what `run` would write; None if the base model is unknown.
        too_large: The training that is not likely to fit into memory, with its estimate; empty if there is none.
        fitting: The settings with which it fits.
    """

    gpu: bool = False
    download: bool = False
    disk_bytes: int | None = None
    too_large: str = ""
    fitting: str = ""


def needs_of(project: ProjectFolder | Path) -> tuple[Needs, list[Check]]:
    """Return the needs of a project, and a check of its config, without which they are unknown."""
    from phi_runtime.models.embedded import EMBEDDED
    from phi_runtime.models.fetch import present
    from phi_runtime.models.place import download_id
    from phi_runtime.pipeline.load import load_workflow

    if isinstance(project, Path):
        return Needs(), []
    try:
        workflow = load_workflow(project.config)
        model = workflow.input_model
        download = present(model, project) is None and download_id(model, project) not in EMBEDDED
        gpu = workflow.host_device == "gpu" and not workflow.remote
        needs = Needs(gpu, download, *_disk_and_memory(workflow, project))
    except PhiError as e:
        fix = f'phi-scaffold validate "{project.config}"'
        return Needs(), [Check("error", "config", first_line(e), fix, False)]
    return needs, [Check("good", "config", project.shown(project.config), value=True)]


def _disk_and_memory(workflow: Workflow, project: ProjectFolder) -> tuple[int | None, str, str]:
    """Estimate the size of the outputs and checkpoints that `run` would write now, and name a training that does not fit."""
    from phi_runtime.pipeline.plan import plan
    from phi_runtime.training.forecast import disk_bytes, forecast
    from phi_scaffold.new.catalog import base_shape

    shape = base_shape(workflow, project)
    if shape is None:
        return None, "", ""
    sizes = disk_bytes(workflow, project, shape)
    missing = {stage.name for stage in plan(workflow, project) if stage.state not in ("cached", "deleted")}
    trainings = [name for name in workflow.trainings if name in missing]
    forecasts = [found for name in trainings if (found := forecast(workflow, project, name, shape))]
    if trainings:
        missing |= {"checkpoints", "activations"}
    total = sum(written for name, written in sizes.items() if name in missing)
    for found in forecasts:
        if found.fits is False:
            assert found.available_bytes is not None
            needed, free = size(found.estimate.total_bytes), size(found.available_bytes)
            return total, f"`{found.stage}` takes about {needed}, and {free} are free", found.advice
    return total, "", ""
