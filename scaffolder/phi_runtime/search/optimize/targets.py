"""The targets: execution provider, precisions and default constraints of each, and whether it runs on this machine."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from phi_runtime.config.schema import Constraints, Workflow
from phi_runtime.config.supported_precisions import SUPPORTED_PRECISIONS
from phi_runtime.core.errors import UsageError
from phi_runtime.core.suggestions import did_you_mean
from phi_runtime.hardware.device import has_nvidia_gpu

CPU = "CPUExecutionProvider"


@dataclass(frozen=True)
class Target:
    """A target of `optimize`.

    Attributes:
        precisions: The precisions to try.
        defaults: Constraints that neither the command line nor evaluation.json sets.
        note: A caveat about figures that are measured on this machine.
    """

    name: str
    provider: str
    precisions: tuple[str, ...]
    defaults: Constraints = field(default_factory=lambda: Constraints(max_accuracy_drop=0.05))
    note: str = ""

    @property
    def on_gpu(self) -> bool:
        return self.provider != CPU

    @property
    def accelerator(self) -> dict[str, Any]:
        """The accelerator of a config's system for this target."""
        return {"device": "gpu" if self.on_gpu else "cpu", "execution_providers": [self.provider]}


def _target(name: str, provider: str) -> Target:
    return Target(name, provider, SUPPORTED_PRECISIONS[provider])


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
            # A phone with 6 GB gives an app about half of them.
            Constraints(max_accuracy_drop=0.05, max_memory_mb=3000),
            "speed is measured on this machine; a phone is slower",
        ),
    )
}


def target_for(name: str | None, workflow: Workflow) -> Target:
    """Return the target called `name`, by default the first one with the execution provider of the config.

    Raises:
        UsageError: There is no such target.
    """
    if name is None:
        return next(target for target in TARGETS.values() if target.provider == workflow.execution_provider)
    if name not in TARGETS:
        raise UsageError(
            f"no target is called `{name}`{did_you_mean(name, list(TARGETS))}",
            fix=f"choose one of {', '.join(TARGETS)}",
        )
    return TARGETS[name]


def why_unavailable(target: Target) -> str:
    """Return why a model for `target` cannot run on this machine; empty if it can."""
    from phi_runtime.inference.onnx_folder import provider_available

    if target.provider == "CUDAExecutionProvider" and not has_nvidia_gpu():
        return "no NVIDIA GPU was found"
    if target.provider == "DmlExecutionProvider" and sys.platform != "win32":
        return "DirectML needs Windows"
    return (
        ""
        if provider_available(target.provider)
        else f"the installed onnxruntime-genai does not support {target.provider}"
    )


def values_for(target: Target, workflow: Workflow) -> Mapping[str, Any]:
    """Return the config values, by dotted path, that select `target`; none if it is selected already.

    A system with the execution provider is used if there is one, else one is added; the host is unchanged.
    """
    if workflow.execution_provider == target.provider:
        return {}
    for name, system in workflow.systems.items():
        if system.accelerators[0].execution_providers == [target.provider] and system.type == "LocalSystem":
            return {"target": name}
    name = f"{target.name}_target".replace("-", "_")
    return {f"systems.{name}": {"type": "LocalSystem", "accelerators": [target.accelerator]}, "target": name}
