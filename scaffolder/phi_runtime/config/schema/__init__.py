"""The canonical form of the config, one pydantic model for each part of it.

Every field says what it does; the JSON Schema, the docs and the error messages come from here. Defaults are Olive's.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from phi_runtime.config.schema.adapters import (
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
from phi_runtime.config.schema.common import Dtype, Kind, Strict
from phi_runtime.config.schema.data import BUILDERS, DataConfig, Datastore, LoadDataset, PreProcess
from phi_runtime.config.schema.export import BuilderOptions, Gate, ModelBuilder
from phi_runtime.config.schema.finetune_pass import FinetunePass, Pass
from phi_runtime.config.schema.passes import PASS_TYPES, AnyPass, FullFinetune, MergeAdapterWeights
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
from phi_runtime.config.schema.training_args import AcceleratorConfig, FsdpConfig, TrainingArgs
from phi_runtime.config.schema.training_basics import GradientCheckpointing
from phi_runtime.config.schema.workflow import Workflow

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
