"""Run phi-scaffold projects from Python: fetch, fine-tune, merge, export, evaluate, infer.

    from phi_runtime import Project

    project = Project.open("mood")
    project.run(on_event=print)
    with project.model("onnx") as model:
        print(model.answer("What a lovely day!"))

The names in `__all__` are the public API; everything else may change in any release. The package prints nothing and
prompts for nothing: progress arrives as `Event`, and every error that a user can fix is a `PhiError`. ML libraries are
imported only by the functions that need them, so `import phi_runtime` is instant.

Shapes in docstrings and comments: B batch size (rows or packed lines), T tokens of a line, H hidden size, V vocabulary size,
N items of what the text names (rows of data, or the trained tokens of a loss). A module that needs another letter says so.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from phi_runtime.api import Model, Project
    from phi_runtime.config.diagnostics import Finding
    from phi_runtime.config.schema.pass_base import FinetunePass, Pass
    from phi_runtime.config.schema.registry import register
    from phi_runtime.context import PassContext
    from phi_runtime.core.errors import (
        ConfigError,
        Conflict,
        DataError,
        Interrupted,
        MissingDependency,
        NetworkError,
        OutOfResources,
        PhiError,
        UsageError,
        WorkFailed,
    )
    from phi_runtime.core.events import Event
    from phi_runtime.data.chat_template import load_template
    from phi_runtime.models.load import load_model, load_tokenizer
    from phi_runtime.models.reference import ModelRef
    from phi_runtime.pipeline.engine import Outcome
    from phi_runtime.pipeline.stage import Stage
    from phi_runtime.training.pass_bases import AdapterPass, TrainingPass

__all__ = [
    "AdapterPass",
    "ConfigError",
    "Conflict",
    "DataError",
    "Event",
    "Finding",
    "FinetunePass",
    "Interrupted",
    "MissingDependency",
    "Model",
    "ModelRef",
    "NetworkError",
    "OutOfResources",
    "Outcome",
    "Pass",
    "PassContext",
    "PhiError",
    "Project",
    "Stage",
    "TrainingPass",
    "UsageError",
    "WorkFailed",
    "load_model",
    "load_template",
    "load_tokenizer",
    "register",
]

_MODULES = {
    "api": ("Model", "Project"),
    "config.diagnostics": ("Finding",),
    "config.schema.pass_base": ("FinetunePass", "Pass"),
    "config.schema.registry": ("register",),
    "context": ("PassContext",),
    "core.errors": (
        "ConfigError",
        "Conflict",
        "DataError",
        "Interrupted",
        "MissingDependency",
        "NetworkError",
        "OutOfResources",
        "PhiError",
        "UsageError",
        "WorkFailed",
    ),
    "core.events": ("Event",),
    "data.chat_template": ("load_template",),
    "models.load": ("load_model", "load_tokenizer"),
    "models.reference": ("ModelRef",),
    "pipeline.engine": ("Outcome",),
    "pipeline.stage": ("Stage",),
    "training.pass_bases": ("AdapterPass", "TrainingPass"),
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
