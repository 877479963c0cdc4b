"""Adapters on a base model, through peft."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from phi_runtime.config.schema import (
    IA3,
    AdapterPass,
    DoRA,
    LinearAdapter,
    LoHa,
    LoKr,
    LoRA,
    PEANuT,
    ProductAdapter,
    PromptTuning,
)
from phi_runtime.core.errors import ConfigError
from phi_runtime.models.describe import (
    embeddings_among,
    refuse_unknown,
    saved_modules,
    target_modules,
    ties_embeddings,
)

if TYPE_CHECKING:
    import torch
    from peft import PeftConfig


def add_adapter(base: Any, config: AdapterPass) -> Any:
    """`base` with a fresh adapter, all of whose weights are float32 whatever the base's type.

    Raises ConfigError when the config names a module or a layer that the base has not.
    """
    from peft import get_peft_model
    from transformers import set_seed

    set_seed(config.training_args.seed)  # the adapter's first weights are random
    wanted = peft_config(base, config)
    model = get_peft_model(base, wanted)
    _keep_float32(model, base.dtype)
    return model


def peft_config(base: Any, config: AdapterPass) -> PeftConfig:
    """What peft calls the adapter of `config` on `base`. Raises ConfigError as `add_adapter` does."""
    import peft

    if isinstance(config, PromptTuning):
        text = config.prompt_tuning_init == "text"
        return peft.PromptTuningConfig(
            num_virtual_tokens=config.num_virtual_tokens,
            prompt_tuning_init="TEXT" if text else "RANDOM",
            prompt_tuning_init_text=config.prompt_tuning_init_text,
            tokenizer_name_or_path=base.name_or_path if text else None,
            task_type="CAUSAL_LM",
        )
    assert isinstance(config, LinearAdapter)
    places = _places(base, config)
    if isinstance(config, LoRA):
        offload = config.ephemeral_gpu_offload and isinstance(config, DoRA)
        return peft.LoraConfig(
            r=config.r,
            lora_alpha=config.alpha,
            lora_dropout=config.lora_dropout,
            use_rslora=config.use_rslora,
            use_dora=isinstance(config, DoRA),
            runtime_config=peft.LoraRuntimeConfig(ephemeral_gpu_offload=offload),
            ensure_weight_tying=ties_embeddings(base) and bool(embeddings_among(base, config.modules_to_save)),
            **places,
        )
    if isinstance(config, IA3):
        return peft.IA3Config(feedforward_modules=config.feedforward_modules or [], **places)
    if isinstance(config, PEANuT):
        return peft.PeanutConfig(r=config.r, depth=config.depth, act_fn=config.act_fn, scaling=config.scaling, **places)
    assert isinstance(config, ProductAdapter)
    shared = {
        "r": config.r,
        "alpha": config.alpha,
        "rank_dropout": config.rank_dropout,
        "module_dropout": config.module_dropout,
        "init_weights": config.init_weights,
        "exclude_modules": config.exclude_modules,
        "layers_to_transform": config.layers_to_transform,
        "layers_pattern": config.layers_pattern,
        "rank_pattern": config.rank_pattern,
        "alpha_pattern": config.alpha_pattern,
        **places,
    }
    if isinstance(config, LoKr):
        return peft.LoKrConfig(
            decompose_both=config.decompose_both,
            decompose_factor=config.decompose_factor,
            rank_dropout_scale=config.rank_dropout_scale,
            **shared,
        )
    assert isinstance(config, LoHa)
    return peft.LoHaConfig(**shared)


def virtual_tokens(model: Any) -> int:
    """How many tokens peft puts before those of each row: the length of a prompt that is trained."""
    configs = getattr(model, "peft_config", {}).values()
    return sum(config.num_virtual_tokens for config in configs if config.is_prompt_learning)


def _places(base: Any, config: LinearAdapter) -> dict[str, Any]:
    """Where the adapter sits, checked against the modules that `base` has."""
    if isinstance(config, ProductAdapter):
        if isinstance(config.exclude_modules, list):
            refuse_unknown("exclude_modules", base, config.exclude_modules)
        layers = base.config.get_text_config().num_hidden_layers
        for layer in config.layers_to_transform or ():
            if layer >= layers:
                message = f"layers_to_transform names layer {layer}; the model has {layers} layers, from 0"
                raise ConfigError(message, fix="mend layers_to_transform")
    if isinstance(config, IA3) and config.feedforward_modules:
        refuse_unknown("feedforward_modules", base, config.feedforward_modules)
    saved = saved_modules(base, config.modules_to_save)
    if ties_embeddings(base) and not isinstance(config, LoRA) and (one := embeddings_among(base, saved)):
        raise ConfigError(
            f"`{one[0]}` is embedding and output head in one, and {type(config).__name__} would train them apart",
            fix="train it with a pass of type LoRA, DoRA or QLoRA, or take it out of modules_to_save",
        )
    all_linear = config.all_linear(base.config.model_type)
    return {
        "target_modules": target_modules(base, config.target_modules, all_linear=all_linear),
        "modules_to_save": saved,
        "task_type": "CAUSAL_LM",
    }


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
