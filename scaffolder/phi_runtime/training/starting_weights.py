"""Adapters that start from a changed base: PiSSA, OLoRA, LoftQ.

Training computes with W' + s·B·A, where W ≈ W' + s·B0·A0. The saved adapter is [A; A0] and [B, -B0], a plain LoRA of twice the
rank on the original W, so that merging, chat and export need not know how it started (as peft's conversion of PiSSA does).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from phi_runtime.core.artifacts import write_json
from phi_runtime.core.errors import ConfigError
from phi_runtime.models.modules import tensors
from phi_runtime.models.peft_lora import CONFIG, WEIGHTS, read_config

_ATTRIBUTE = "starting_weights"


def keep_start(model: Any) -> None:
    """Keep the current weights of the adapter of `model`, for `save_plain`."""
    from peft import get_peft_model_state_dict

    setattr(
        model,
        _ATTRIBUTE,
        {name: value.detach().cpu().clone() for name, value in get_peft_model_state_dict(model).items()},
    )


def save_plain(model: Any, folder: Path) -> None:
    """Rewrite the adapter of `model` that was saved to `folder` as a LoRA on the original base, if it started elsewhere."""
    start: Mapping[str, Any] | None = getattr(model, _ATTRIBUTE, None)
    if start is None:
        return
    import torch
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / WEIGHTS)
    for name, value in weights.items():
        if ".lora_A." in name:
            weights[name] = torch.cat([value, start[name].to(value.dtype)], dim=0)  # (2r, inputs)
        elif ".lora_B." in name:
            weights[name] = torch.cat([value, -start[name].to(value.dtype)], dim=1)  # (outputs, 2r)
    save_file(weights, folder / WEIGHTS, {"format": "pt"})
    config = read_config(folder)
    scale = 2**0.5 if config.get("use_rslora") else 2  # alpha / r, or alpha / √r, stays the same
    ranks = {key: 2 * rank for key, rank in (config.get("rank_pattern") or {}).items()}
    alphas = {key: scale * alpha for key, alpha in (config.get("alpha_pattern") or {}).items()}
    config |= {"r": 2 * config["r"], "lora_alpha": scale * config["lora_alpha"], "rank_pattern": ranks}
    config |= {"alpha_pattern": alphas, "init_lora_weights": True}
    write_json(folder / CONFIG, config)


def start_from_rounding(model: Any, folder: Path) -> None:
    """Start each adapter with the best approximation of what 4 bits lost of its weight (LoftQ, https://arxiv.org/abs/2310.08659).

    Args:
        model: A peft model over a base that bitsandbytes holds in 4 bits.
        folder: Files of that base in full precision.

    Raises:
        ConfigError: The files do not have the weights by the names of the model.
    """
    import torch
    from bitsandbytes.functional import dequantize_4bit
    from peft.tuners.lora import Linear4bit
    from safetensors import safe_open

    files = {name: file for file in sorted(folder.glob("*.safetensors")) for name in tensors(folder, file.name)}
    for path, module in model.named_modules():
        if not isinstance(module, Linear4bit):
            continue
        name = f"{path.removeprefix('base_model.model.')}.weight"
        if name not in files:
            raise ConfigError(
                f"`loftq` does not find the weights of `{name}` in {folder}", fix="remove init_lora_weights"
            )
        with safe_open(files[name], "pt") as file:
            original = file.get_tensor(name).to(module.weight.device, torch.float32)
        lost = original - dequantize_4bit(module.weight.data, module.weight.quant_state).float()
        left, sizes, right = torch.linalg.svd(lost, full_matrices=False)
        for adapter, scale in module.scaling.items():
            rank = module.r[adapter]
            root = (sizes[:rank] / scale).sqrt()
            module.lora_A[adapter].weight.data.copy_(root[:, None] * right[:rank])
            module.lora_B[adapter].weight.data.copy_(left[:, :rank] * root)
