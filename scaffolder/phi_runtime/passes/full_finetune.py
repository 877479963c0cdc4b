"""Full fine-tuning: every weight is trained, in float32 with autocast where the device has a shorter type."""

from __future__ import annotations

from typing import Any

from phi_runtime.passes import PassContext
from phi_runtime.passes.lora import attention

LIBRARIES = ("torch", "transformers", "tokenizers")


def run(context: PassContext) -> dict[str, Any]:
    import torch

    from phi_runtime.models.device import compute_dtype, pick_device
    from phi_runtime.models.load import load_model
    from phi_runtime.training.finetune import finetune

    device = pick_device(context.workflow.host_device)
    model = load_model(context.source, torch.float32, device, **attention(context))
    return finetune(context, model, compute_dtype(context.config.torch_dtype, device))
