"""One file per pass type, named by Olive's name for it. Each is: config and model in, model out.

A pass module holds `LIBRARIES`, the distributions whose version shapes its output, and `run(context)`, which fills
`context.out` and returns facts about the result for its manifest. It imports ML libraries only inside its functions.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from phi_runtime.data.dataset import Dataset, Place, data_place, load_dataset
from phi_runtime.errors import PhiError
from phi_runtime.events import Emit, Event
from phi_runtime.models.reference import ModelRef
from phi_runtime.project import Project
from phi_runtime.workflow.overrides import Overrides
from phi_runtime.workflow.schema import Pass, Workflow

MODULES = {
    **dict.fromkeys(("LoRA", "DoRA", "LoHa", "LoKr", "IA3", "PEANuT", "PromptTuning"), "adapter"),
    "QLoRA": "qlora",
    "FullFinetune": "full_finetune",
    "MergeAdapterWeights": "merge_adapter_weights",
    "ModelBuilder": "model_builder",
}


@dataclass(frozen=True)
class PassContext:
    """All that a pass gets to know. `out` is empty and becomes the artefact; `work` survives an interruption of the pass;
    `record` is the folder in which this run is recorded. `adapters` are those that the pass takes beside its source, by the passes
    that made them. `before` is where the artefact lies that will be replaced, if it may be used again."""

    name: str
    config: Any
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


def dataset_behind(context: PassContext, training: str, instead: str) -> Dataset | None:
    """The rows of the pass `training`, which made what the pass of `context` works on; None, and a warning that says what is taken
    `instead`, where they cannot be read any more."""
    place = data_place(context.project, context.source.base or context.source, context.overrides)
    try:
        step = context.workflow.trainings[training]
        return load_dataset(context.workflow, step, place, context.emit, context.name)
    except PhiError as e:
        context.warn(f"the rows of `{training}` cannot be read ({e.what}): {instead}")
        return None


class PassModule(Protocol):
    LIBRARIES: tuple[str, ...]

    def run(self, context: PassContext) -> dict[str, Any]: ...

    def trainable(self, context: PassContext) -> tuple[Any, Any]:
        """Of a pass that trains: the model with what is to be trained of it, and the torch.dtype to compute in."""
        ...


def module_of(step: Pass) -> PassModule:
    """The module that carries out `step`."""
    name = MODULES[step.type]  # type: ignore[attr-defined]
    return importlib.import_module(f"phi_runtime.passes.{name}")
