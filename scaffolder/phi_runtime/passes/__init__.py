"""One file per pass type, named by Olive's name for it. Each is: config and model in, model out.

A pass module holds `LIBRARIES`, the distributions whose version shapes its output, and `run(context)`, which fills
`context.out` and returns facts about the result for its manifest. It imports ML libraries only inside its functions.
"""

from __future__ import annotations

import importlib
from typing import Any, Protocol

from phi_runtime.config.schema import Pass
from phi_runtime.context import PassContext

MODULES = {
    **dict.fromkeys(("LoRA", "DoRA", "LoHa", "LoKr", "IA3", "PEANuT", "PromptTuning"), "adapter"),
    "QLoRA": "qlora",
    "FullFinetune": "full_finetune",
    "MergeAdapterWeights": "merge_adapter_weights",
    "ModelBuilder": "model_builder",
}


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
