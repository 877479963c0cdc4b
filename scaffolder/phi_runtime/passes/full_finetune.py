"""Full fine-tuning: every weight is trained, in float32 with autocast where the device has a shorter type."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from phi_runtime.context import PassContext
from phi_runtime.passes.adapter import attention

if TYPE_CHECKING:
    import torch

LIBRARIES = ("torch", "transformers", "tokenizers")


def run(context: PassContext) -> dict[str, Any]:
    from phi_runtime.training.finetune import finetune

    return finetune(context, trainable)


def trainable(context: PassContext) -> tuple[Any, torch.dtype]:
    """The model in float32, and the type to compute in."""
    import torch

    from phi_runtime.hardware.device import compute_dtype, pick_device
    from phi_runtime.models.load import load_model
    from phi_runtime.training.placement import placement

    device = pick_device(context.workflow.host_device)
    where = placement(context.config, context.source, torch.float32, device)
    model = load_model(context.source, torch.float32, **where, **attention(context))
    return model, compute_dtype(context.config.torch_dtype, device)
