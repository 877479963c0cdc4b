"""Int4-aware training: every other step uses the base weights as the int4 export will round them.

An adapter that is fitted to the exact base alone relies on differences that 4-bit rounding removes. Its own update is
far smaller than a rounding step, so the rounded base used here is, but for a few weights, the one it is merged into.
"""

from __future__ import annotations

import re
from typing import Any

import torch
from torch.nn import functional

from phi_runtime.config.schema.export import Int4Rounding
from phi_runtime.models.builder_source import gets_8_bits

_LAYER = re.compile(r"\.layers\.(\d+)\.(?:\w+\.)*?(\w+)(?:\.base_layer)?$")
_NODE = re.compile(r"layers\.(\d+)/.*?(\w+)/MatMul")
_PARTS = {
    "q_proj": "qkv_proj",
    "k_proj": "qkv_proj",
    "v_proj": "qkv_proj",
    "gate_proj": "gate_up_proj",
    "up_proj": "gate_up_proj",
}
"""Modules that the builder joins into one node of the graph."""


def round_to_int4(weight: torch.Tensor, block_size: int = 32, *, symmetric: bool = True) -> torch.Tensor:
    """Round a weight to 4 bits and back, as ONNX Runtime does (MlasQuantizeBlockwise).

    Each block of a row has one scale. If symmetric, the codes are -8 … 7, and size and sign of the scale map the largest
    weight to -8; else they are 0 … 15 with a zero point, and the scale covers the range of the block and zero. The last block of
    a row is padded with zeros.

    Args:
        weight: (out_features, in_features).
        block_size: Weights that share one scale.
        symmetric: Without zero points.

    Returns:
        The rounded weight, in shape and type of `weight`.
    """
    rows, columns = weight.shape
    padded = functional.pad(weight.float(), (0, -columns % block_size))
    blocks = padded.view(-1, block_size)  # (blocks, block_size)
    if symmetric:
        scale = blocks.gather(1, blocks.abs().argmax(dim=1, keepdim=True)) / -8  # (blocks, 1)
        zero, low, high = torch.zeros_like(scale), -8, 7
    else:
        least = blocks.amin(dim=1, keepdim=True).clamp(max=0)  # (blocks, 1)
        scale = (blocks.amax(dim=1, keepdim=True).clamp(min=0) - least) / 15
        zero, low, high = (-least * _inverse(scale)).round().clamp(0, 15), 0, 15
    codes = (blocks * _inverse(scale) + zero + 0.5).floor().clamp(low, high)  # (blocks, block_size)
    return ((codes - zero) * scale).view(rows, -1)[:, :columns].to(weight.dtype)


def _inverse(scale: torch.Tensor) -> torch.Tensor:
    return torch.where(scale == 0, 0.0, 1 / scale)


class Int4AwareBase:
    """The frozen linear weights of `model` that an int4 export rounds, exact and rounded, to switch between.

    Attributes:
        is_rounded: The rounded weights are in the model.
    """

    def __init__(self, model: Any, rounding: Int4Rounding | None = None) -> None:
        rounding = rounding or Int4Rounding()
        layer_count = model.config.get_text_config().num_hidden_layers
        excluded = {(int(layer), module) for node in rounding.excluded for layer, module in _NODE.findall(node)}
        self.layers = []
        for name, module in model.named_modules():
            match = _LAYER.search(name)
            if match is None or not isinstance(module, torch.nn.Linear) or module.weight.requires_grad:
                continue
            layer, own = int(match[1]), match[2]
            if rounding.sensitive_in_8_bits and gets_8_bits(layer, layer_count, own):
                continue
            if not {(layer, own), (layer, _PARTS.get(own, own))} & excluded:
                self.layers.append(module)
        self.exact = [layer.weight.data for layer in self.layers]
        self.is_rounded = False
        self.rounded = [round_to_int4(w, rounding.block_size, symmetric=rounding.symmetric) for w in self.exact]

    def use_rounded(self, rounded: bool) -> None:
        """Put the rounded or the exact weights into the model."""
        self.is_rounded = rounded
        for layer, weight in zip(self.layers, self.rounded if rounded else self.exact, strict=True):
            layer.weight.data = weight
