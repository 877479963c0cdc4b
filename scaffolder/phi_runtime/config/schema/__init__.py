"""The canonical form of the config, one pydantic model for each part of it.

Every field says what it does; the JSON Schema, the docs and the error messages come from here. Defaults are Olive's.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from phi_runtime.config.schema.common import Kind, Strict
from phi_runtime.config.schema.data import BUILDERS, DataConfig, Datastore, LoadDataset, PreProcess
from phi_runtime.config.schema.export import BuilderOptions, ExportPass
from phi_runtime.config.schema.pass_base import FinetunePass, Pass
from phi_runtime.config.schema.passes import AnyPass
from phi_runtime.config.schema.sidecar_files import (
    Choice,
    CondaEnvironment,
    Constraints,
    Evaluation,
    FloatRange,
    IntRange,
    SearchStrategy,
    Sweep,
)
from phi_runtime.config.schema.systems import (
    AnySystem,
    AzureMLModel,
    AzureMLSystem,
    InputModel,
    LoadKwargs,
    LocalSystem,
    RegistryModel,
    System,
    WorkspaceModel,
)
from phi_runtime.config.schema.training_args import AcceleratorConfig, FsdpConfig, TrainingArgs
from phi_runtime.config.schema.training_basics import GradientCheckpointing
from phi_runtime.config.schema.workflow import Workflow

__all__ = [
    "BUILDERS",
    "AcceleratorConfig",
    "AnyPass",
    "AnySystem",
    "AzureMLModel",
    "AzureMLSystem",
    "BuilderOptions",
    "Choice",
    "CondaEnvironment",
    "Constraints",
    "DataConfig",
    "Datastore",
    "Evaluation",
    "ExportPass",
    "FinetunePass",
    "FloatRange",
    "FsdpConfig",
    "GradientCheckpointing",
    "InputModel",
    "IntRange",
    "Kind",
    "LoadDataset",
    "LoadKwargs",
    "LocalSystem",
    "Pass",
    "PreProcess",
    "RegistryModel",
    "SearchStrategy",
    "Strict",
    "Sweep",
    "System",
    "TrainingArgs",
    "Workflow",
    "WorkspaceModel",
    "canonical",
]


def canonical(value: BaseModel) -> dict[str, Any]:
    """A model as plain JSON values, every default written out."""
    return value.model_dump(mode="json")
