"""Add a peft adapter to a base model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from peft import PeftConfig


def add_adapter(base: Any, config: PeftConfig, seed: int) -> Any:
    """Return `base` with a new adapter, all of whose weights are float32 whatever the type of the base."""
    from peft import get_peft_model
    from transformers import set_seed

    set_seed(seed)  # the adapter's first weights are random
    model = get_peft_model(base, config)
    _keep_float32(model, base.dtype)
    return model


def virtual_tokens(model: Any) -> int:
    """How many tokens peft puts before those of each row: the length of a prompt that is trained."""
    configs = getattr(model, "peft_config", {}).values()
    return sum(config.num_virtual_tokens for config in configs if config.is_prompt_learning)


def _keep_float32(model: Any, dtype: torch.dtype) -> None:
    """Makes every trained weight of `model` float32.

    peft does so for the weights of its adapters and not for the modules that are trained whole (seen in 0.21.2): in bfloat16 a
    step of 1e-4 is lost in the rounding of most weights. Such a module computes in float32 then, between inputs and outputs of
    the base's type, `dtype`.
    """
    import torch
    from peft.utils import ModulesToSaveWrapper

    for parameter in model.parameters():
        if parameter.requires_grad and parameter.dtype != torch.float32:
            parameter.data = parameter.data.float()
    for wrapper in model.modules():
        if isinstance(wrapper, ModulesToSaveWrapper):
            for module in wrapper.modules_to_save.values():
                module.register_forward_pre_hook(
                    lambda _, inputs: tuple(_cast(value, torch.float32) for value in inputs)
                )
                module.register_forward_hook(lambda _, __, output: _cast(output, dtype))


def _cast(value: Any, dtype: torch.dtype) -> Any:
    """`value` in `dtype` where it is a tensor of real numbers."""
    return value.to(dtype) if getattr(value, "is_floating_point", bool)() else value
