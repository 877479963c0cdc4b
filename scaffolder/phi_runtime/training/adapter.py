"""LoRA adapters on a base model, through peft."""

from __future__ import annotations

from typing import Any

from phi_runtime.models.describe import saved_modules, target_modules
from phi_runtime.workflow.schema import LoRA, QLoRA


def add_adapter(base: Any, config: LoRA) -> Any:
    """`base` with a fresh adapter, whose weights peft keeps in float32 whatever the base's type.

    Raises ConfigError when target_modules or modules_to_save names a module that the base has not.
    """
    from peft import LoraConfig, get_peft_model
    from transformers import set_seed

    set_seed(config.training_args.seed)  # the adapter's first weights are random
    wanted = LoraConfig(
        r=config.r,
        lora_alpha=config.alpha,
        lora_dropout=config.lora_dropout,
        target_modules=target_modules(base, config.target_modules, all_linear=isinstance(config, QLoRA)),
        modules_to_save=saved_modules(base, config.modules_to_save),
        task_type="CAUSAL_LM",
    )
    return get_peft_model(base, wanted)
