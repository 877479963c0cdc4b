"""QLoRA: an adapter in float32 over a base whose weights are kept in 4 bits by bitsandbytes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from phi_runtime.context import PassContext
from phi_runtime.core.errors import MissingDependency
from phi_runtime.passes.adapter import attention

if TYPE_CHECKING:
    import torch

LIBRARIES = ("torch", "transformers", "peft", "tokenizers", "bitsandbytes")


def run(context: PassContext) -> dict[str, Any]:
    from phi_runtime.training.finetune import finetune

    return finetune(context, trainable)


def trainable(context: PassContext) -> tuple[Any, torch.dtype]:
    """The 4-bit model with its adapter, and the type to compute in."""
    try:
        import bitsandbytes
    except ImportError as e:
        raise MissingDependency("QLoRA needs bitsandbytes", fix="pip install 'phi-scaffold[qlora]' in .venv") from e
    from transformers import BitsAndBytesConfig

    from phi_runtime.hardware.device import compute_dtype, pick_device
    from phi_runtime.models.load import load_model
    from phi_runtime.training.adapter import add_adapter
    from phi_runtime.training.placement import placement

    config = context.config
    device = pick_device(context.workflow.host_device)
    dtype = compute_dtype(config.compute_dtype or config.torch_dtype, device)
    quantization = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=config.quant_type,
        bnb_4bit_use_double_quant=config.double_quant,
        bnb_4bit_compute_dtype=dtype,
    )
    where = {"device_map": {"": device}, **placement(config, context.source, dtype, device)}
    base = load_model(context.source, dtype, quantization_config=quantization, **where, **attention(context))
    for module in base.modules():
        if isinstance(module, bitsandbytes.nn.Linear4bit):
            # On CPUs with AVX512-BF16 the first evaluation repacks the weight for inference, and every later training step
            # loses gradient without a word (seen in 0.50.2, nn/modules.py).
            module.support_avx512bf16_for_cpu = False
    return add_adapter(base, config), dtype
