"""The context of a pass: everything that a running pass may use."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

from phi_runtime.config.overrides import Overrides
from phi_runtime.config.schema import Pass, Workflow
from phi_runtime.core.errors import PhiError
from phi_runtime.core.events import Emit, Event, progress_message
from phi_runtime.core.project import ProjectFolder
from phi_runtime.data.dataset import DataContext, Dataset, data_context, load_dataset
from phi_runtime.models.reference import ModelRef

P_co = TypeVar("P_co", bound=Pass, covariant=True)


@dataclass(frozen=True)
class PassContext(Generic[P_co]):
    """The inputs, folders and event sink of one running pass.

    Attributes:
        name: Name of the pass in the config.
        config: The pass itself.
        source: The model that goes in.
        out: Empty folder that becomes the artifact once `run` returns.
        work: Scratch folder that survives an interruption, for checkpoints.
        emit: Listener for events; `info` and `warn` are shortcuts.
        overrides: Settings of the command line that replace those of the config.
        record: Folder that records this run (gen-model/runs/<id>); None outside a run.
        adapters: Adapters that the pass uses in addition to `source`, by the passes that trained them.
        previous: Folder of the artifact that `out` will replace; None if it must not be reused.
    """

    name: str
    config: P_co
    source: ModelRef
    out: Path
    work: Path
    workflow: Workflow
    project: ProjectFolder
    emit: Emit
    overrides: Overrides = field(default_factory=Overrides)
    record: Path | None = None
    adapters: Mapping[str, ModelRef] = field(default_factory=dict)
    previous: Path | None = None

    @property
    def data(self) -> DataContext:
        """Source of the training rows: project, tokenizer and overrides."""
        return data_context(self.project, self.source, self.overrides)

    def info(self, message: str) -> None:
        """Emit a progress message."""
        self.emit(progress_message(self.name, message))

    def warn(self, message: str) -> None:
        """Emit a warning."""
        self.emit(Event("warning", self.name, {"message": message}))


def dataset_behind(context: PassContext[Pass], training: str, fallback: str) -> Dataset | None:
    """Return the rows that the pass `training`, from which the source of `context` descends, trains on.

    Args:
        context: Context of a later pass, such as an export.
        training: Name of a pass that trains, or of the input adapter.
        fallback: Description of the substitute, for the warning.

    Returns:
        The rows; None if there are none, or, after a warning, if they can no longer be read.
    """
    place = data_context(context.project, context.source.base or context.source, context.overrides)
    try:
        rows = context.workflow.passes[training].rows
        return load_dataset(context.workflow, rows, place, context.emit, context.name) if rows else None
    except PhiError as e:
        context.warn(f"the rows of `{training}` cannot be read ({e.what}): {fallback}")
        return None
