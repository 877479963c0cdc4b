"""The canonical form of the config, one pydantic model for each part of it.

Every field says what it does; the JSON Schema, the docs and the error messages come from here. Defaults are Olive's.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from phi_runtime.workflow.schema.beside import (
    Choice,
    CondaEnvironment,
    Evaluation,
    FloatRange,
    IntRange,
    SearchStrategy,
    Sweep,
)
from phi_runtime.workflow.schema.common import Dtype, Kind, Strict
from phi_runtime.workflow.schema.data import BUILDERS, DataConfig, Datastore, LoadDataset, PreProcess
from phi_runtime.workflow.schema.machine import (
    Accelerator,
    AnySystem,
    AzureMLClient,
    AzureMLSystem,
    InputModel,
    LoadKwargs,
    LocalSystem,
    RegistryModel,
    System,
)
from phi_runtime.workflow.schema.passes import (
    AnyPass,
    BuilderOptions,
    FinetunePass,
    FullFinetune,
    LoRA,
    MergeAdapterWeights,
    ModelBuilder,
    Pass,
    QLoRA,
    TrainingArgs,
)
from phi_runtime.workflow.schema.workflow import Workflow

__all__ = [
    "BUILDERS",
    "Accelerator",
    "AnyPass",
    "AnySystem",
    "AzureMLClient",
    "AzureMLSystem",
    "BuilderOptions",
    "Choice",
    "CondaEnvironment",
    "DataConfig",
    "Datastore",
    "Dtype",
    "Evaluation",
    "FinetunePass",
    "FloatRange",
    "FullFinetune",
    "InputModel",
    "IntRange",
    "Kind",
    "LoRA",
    "LoadDataset",
    "LoadKwargs",
    "LocalSystem",
    "MergeAdapterWeights",
    "ModelBuilder",
    "Pass",
    "PreProcess",
    "QLoRA",
    "RegistryModel",
    "SearchStrategy",
    "Strict",
    "Sweep",
    "System",
    "TrainingArgs",
    "Workflow",
    "canonical",
]


def canonical(value: BaseModel) -> dict[str, Any]:
    """A model as plain JSON values, every default written out."""
    return value.model_dump(mode="json")
