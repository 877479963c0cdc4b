"""The canonical form of the config, one pydantic model for each part of it.

Every field says what it does; the JSON Schema, the docs and the error messages come from here. Defaults are Olive's.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from phi_runtime.workflow.schema.adapters import (
    IA3,
    AdapterPass,
    DoRA,
    LinearAdapter,
    LoHa,
    LoKr,
    LoRA,
    PEANuT,
    ProductAdapter,
    PromptTuning,
    QLoRA,
)
from phi_runtime.workflow.schema.beside import (
    Choice,
    CondaEnvironment,
    Constraints,
    Evaluation,
    FloatRange,
    IntRange,
    SearchStrategy,
    Sweep,
)
from phi_runtime.workflow.schema.common import Dtype, Kind, Strict
from phi_runtime.workflow.schema.data import BUILDERS, DataConfig, Datastore, LoadDataset, PreProcess
from phi_runtime.workflow.schema.export import BuilderOptions, Gate, ModelBuilder
from phi_runtime.workflow.schema.finetune_pass import FinetunePass, Pass
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
from phi_runtime.workflow.schema.passes import PASS_TYPES, AnyPass, FullFinetune, MergeAdapterWeights
from phi_runtime.workflow.schema.training_args import AcceleratorConfig, FsdpConfig, TrainingArgs
from phi_runtime.workflow.schema.training_basics import GradientCheckpointing
from phi_runtime.workflow.schema.workflow import Workflow

__all__ = [
    "BUILDERS",
    "IA3",
    "PASS_TYPES",
    "Accelerator",
    "AcceleratorConfig",
    "AdapterPass",
    "AnyPass",
    "AnySystem",
    "AzureMLClient",
    "AzureMLSystem",
    "BuilderOptions",
    "Choice",
    "CondaEnvironment",
    "Constraints",
    "DataConfig",
    "Datastore",
    "DoRA",
    "Dtype",
    "Evaluation",
    "FinetunePass",
    "FloatRange",
    "FsdpConfig",
    "FullFinetune",
    "Gate",
    "GradientCheckpointing",
    "InputModel",
    "IntRange",
    "Kind",
    "LinearAdapter",
    "LoHa",
    "LoKr",
    "LoRA",
    "LoadDataset",
    "LoadKwargs",
    "LocalSystem",
    "MergeAdapterWeights",
    "ModelBuilder",
    "PEANuT",
    "Pass",
    "PreProcess",
    "ProductAdapter",
    "PromptTuning",
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
