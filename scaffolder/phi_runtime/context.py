"""The context of a pass: everything that a running pass may use."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

from phi_runtime.config.overrides import Overrides
from phi_runtime.config.schema import Pass, Workflow
from phi_runtime.core.errors import PhiError
from phi_runtime.core.events import Emit, Event
from phi_runtime.core.project import Project
from phi_runtime.data.dataset import Dataset, Place, data_place, load_dataset
from phi_runtime.models.reference import ModelRef

P_co = TypeVar("P_co", bound=Pass, covariant=True)


@dataclass(frozen=True)
class PassContext(Generic[P_co]):
    """All that a pass gets to know. `out` is empty and becomes the artefact; `work` survives an interruption of the pass;
    `record` is the folder in which this run is recorded. `adapters` are those that the pass takes beside its source, by the passes
    that made them. `before` is where the artefact lies that will be replaced, if it may be used again."""

    name: str
    config: P_co
    source: ModelRef
    out: Path
    work: Path
    workflow: Workflow
    project: Project
    emit: Emit
    overrides: Overrides = field(default_factory=Overrides)
    record: Path | None = None
    adapters: Mapping[str, ModelRef] = field(default_factory=dict)
    before: Path | None = None

    @property
    def place(self) -> Place:
        """Where the rows of a pass that trains come from."""
        return data_place(self.project, self.source, self.overrides)

    def say(self, message: str) -> None:
        """Tells the user what goes on."""
        self.emit(Event("progress", self.name, {"done": None, "total": None, "unit": "", "message": message}))

    def warn(self, message: str) -> None:
        """Tells the user what should not be."""
        self.emit(Event("warning", self.name, {"message": message}))


def dataset_behind(context: PassContext[Pass], training: str, instead: str) -> Dataset | None:
    """The rows of the pass `training`, which made what the pass of `context` works on; None, and a warning that says what is taken
    `instead`, where they cannot be read any more."""
    place = data_place(context.project, context.source.base or context.source, context.overrides)
    try:
        step = context.workflow.trainings[training]
        return load_dataset(context.workflow, step, place, context.emit, context.name)
    except PhiError as e:
        context.warn(f"the rows of `{training}` cannot be read ({e.what}): {instead}")
        return None
