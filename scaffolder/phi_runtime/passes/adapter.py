"""LoRA, DoRA, LoHa, LoKr, IA3, PEANuT and PromptTuning: an adapter in float32 over a frozen base of full precision."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from phi_runtime.context import PassContext

if TYPE_CHECKING:
    import torch

LIBRARIES = ("torch", "transformers", "peft", "tokenizers")


def run(context: PassContext) -> dict[str, Any]:
    from phi_runtime.training.finetune import finetune

    return finetune(context, trainable)


def trainable(context: PassContext) -> tuple[Any, torch.dtype]:
    """The model with what is to be trained of it, and the type to compute in."""
    from phi_runtime.hardware.device import compute_dtype, pick_device
    from phi_runtime.models.load import load_model
    from phi_runtime.training.adapter import add_adapter
    from phi_runtime.training.placement import placement

    device = pick_device(context.workflow.host_device)
    dtype = compute_dtype(context.config.torch_dtype, device)
    where = placement(context.config, context.source, dtype, device)
    base = load_model(context.source, dtype, **where, **attention(context))
    return add_adapter(base, context.config), dtype


def attention(context: PassContext) -> dict[str, Any]:
    """The attention kernel that the config asks for, as a keyword of `from_pretrained`."""
    wanted = context.workflow.input_model.load_kwargs.attn_implementation
    return {"attn_implementation": wanted} if wanted else {}
