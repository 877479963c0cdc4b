"""What a model can be optimised for: the execution provider, what it may take where nobody says, and whether it runs here."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from phi_runtime.config.schema import Constraints, Workflow
from phi_runtime.config.supported_precisions import RUNNABLE
from phi_runtime.core.errors import UsageError
from phi_runtime.core.suggestions import did_you_mean
from phi_runtime.hardware.device import has_nvidia_gpu

CPU = "CPUExecutionProvider"


@dataclass(frozen=True)
class Target:
    """`precisions` are those to try, `defaults` the constraints where neither the command line nor evaluation.json has one, `note`
    what figures of this machine do not tell."""

    name: str
    provider: str
    precisions: tuple[str, ...]
    defaults: Constraints = field(default_factory=lambda: Constraints(max_accuracy_drop=0.02))
    note: str = ""

    @property
    def on_gpu(self) -> bool:
        return self.provider != CPU

    @property
    def accelerator(self) -> dict[str, Any]:
        """The target as a system of the config has it."""
        return {"device": "gpu" if self.on_gpu else "cpu", "execution_providers": [self.provider]}


def _target(name: str, provider: str) -> Target:
    return Target(name, provider, RUNNABLE[provider])


TARGETS = {
    target.name: target
    for target in (
        _target("laptop-cpu", CPU),
        _target("cuda", "CUDAExecutionProvider"),
        _target("directml", "DmlExecutionProvider"),
        _target("webgpu", "WebGpuExecutionProvider"),
        Target(
            "mobile",
            CPU,
            ("int4",),
            # A phone of 6 GB lets an app have about half of them.
            Constraints(max_accuracy_drop=0.05, max_memory_mb=3000),
            "speed is that of this machine; a phone is slower",
        ),
    )
}


def target_for(wanted: str | None, workflow: Workflow) -> Target:
    """The target called `wanted`; without a name, the first whose execution provider is that of the config. Raises UsageError."""
    if wanted is None:
        return next(target for target in TARGETS.values() if target.provider == workflow.execution_provider)
    if wanted not in TARGETS:
        raise UsageError(
            f"there is no target `{wanted}`{did_you_mean(wanted, list(TARGETS))}",
            fix=f"choose one of {', '.join(TARGETS)}",
        )
    return TARGETS[wanted]


def why_unavailable(target: Target) -> str:
    """Why a model for `target` cannot run on this machine; empty where it can."""
    from phi_runtime.inference.onnx import runs_here

    if target.provider == "CUDAExecutionProvider" and not has_nvidia_gpu():
        return "there is no NVIDIA GPU here"
    if target.provider == "DmlExecutionProvider" and sys.platform != "win32":
        return "DirectML is part of Windows"
    return "" if runs_here(target.provider) else f"the installed onnxruntime-genai has no {target.provider}"


def values_for(target: Target, workflow: Workflow) -> Mapping[str, Any]:
    """What to put into the config, by dotted path, so that its target is this one; nothing where it is already. A system that has the
    execution provider is taken, else one is added: the host stays what it is."""
    if workflow.execution_provider == target.provider:
        return {}
    for name, system in workflow.systems.items():
        if system.accelerators[0].execution_providers == [target.provider] and system.type == "LocalSystem":
            return {"target": name}
    name = f"{target.name}_target".replace("-", "_")
    return {f"systems.{name}": {"type": "LocalSystem", "accelerators": [target.accelerator]}, "target": name}
