"""Add a peft adapter to a base model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
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


def continue_adapter(base: Any, folder: Path, settings: Mapping[str, Any], seed: int) -> Any:
    """Return `base` with the adapter in `folder` on it, to be trained further, as `add_adapter` returns a new one.

    Args:
        settings: Settings of its peft config that differ from those that it was saved with.

    Raises:
        UsageError: The adapter does not fit `base`.
    """
    from peft import PeftConfig
    from transformers import set_seed

    from phi_runtime.models.load import put_adapter

    config = PeftConfig.from_pretrained(str(folder))
    config.base_model_name_or_path = base.name_or_path  # a Hub id would be looked up there at every save
    for name, value in settings.items():
        setattr(config, name, value)
    set_seed(seed)  # dropout is random
    model = put_adapter(base, folder, config=config, is_trainable=not config.is_prompt_learning)
    if config.is_prompt_learning:  # peft does not load learned tokens for training (seen in 0.21.2)
        config.inference_mode = False
        model.prompt_encoder.requires_grad_(True)
    _keep_float32(model, base.dtype)
    return model


def virtual_tokens(model: Any) -> int:
    """Return the number of learned tokens that peft puts before each row."""
    configs = getattr(model, "peft_config", {}).values()
    return sum(config.num_virtual_tokens for config in configs if config.is_prompt_learning)


def _keep_float32(model: Any, dtype: torch.dtype) -> None:
    """Convert every trained weight of `model` to float32.

    peft does so for adapters but not for modules_to_save (seen in 0.21.2), where a bfloat16 step of 1e-4 is lost in the
    rounding of most weights. Such a module computes in float32, between inputs and outputs of the base's `dtype`.
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
    """Return `value` in `dtype` if it is a floating-point tensor."""
    return value.to(dtype) if getattr(value, "is_floating_point", bool)() else value
