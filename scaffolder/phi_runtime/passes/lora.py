"""LoRA: an adapter in float32 over a frozen base."""

from __future__ import annotations

from typing import Any

from phi_runtime.passes import PassContext

LIBRARIES = ("torch", "transformers", "peft", "tokenizers")


def run(context: PassContext) -> dict[str, Any]:
    from phi_runtime.models.device import compute_dtype, pick_device
    from phi_runtime.models.load import load_model
    from phi_runtime.training.adapter import add_adapter
    from phi_runtime.training.finetune import finetune

    device = pick_device(context.workflow.host_device)
    dtype = compute_dtype(context.config.torch_dtype, device)
    base = load_model(context.source, dtype, device, **attention(context))
    return finetune(context, add_adapter(base, context.config), dtype)


def attention(context: PassContext) -> dict[str, Any]:
    """The attention kernel that the config asks for, as a keyword of `from_pretrained`."""
    wanted = context.workflow.input_model.load_kwargs.attn_implementation
    return {"attn_implementation": wanted} if wanted else {}
