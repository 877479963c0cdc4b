"""Int4-aware training: every other step uses the base weights as the int4 export will round them.

An adapter that is fitted to the exact base alone relies on differences that 4-bit rounding removes. Its own update is
far smaller than a rounding step, so the rounded base used here is, but for a few weights, the one it is merged into.
"""

from __future__ import annotations

import re
from typing import Any

import torch

from phi_runtime.models.builder_source import gets_8_bits

BLOCK_SIZE = 32  # weights that share a scale, the builder's default
_LAYER = re.compile(r"\.layers\.(\d+)\.(?:\w+\.)*?(\w+)(?:\.base_layer)?$")


def round_to_int4(weight: torch.Tensor) -> torch.Tensor:
    """Round a weight to 4 bits and back, as ONNX Runtime does.

    Each block of 32 weights in a row has codes -8 … 7 and one scale, whose size and sign map the largest weight to -8
    (MlasQuantizeBlockwise, symmetric).

    Args:
        weight: (out_features, in_features), in_features a multiple of 32.

    Returns:
        The rounded weight, in shape and type of `weight`.
    """
    blocks = weight.float().view(-1, BLOCK_SIZE)  # (blocks, 32)
    scale = blocks.gather(1, blocks.abs().argmax(dim=1, keepdim=True)) / -8  # (blocks, 1)
    inverse = torch.where(scale == 0, 0.0, 1 / scale)  # (blocks, 1)
    codes = (blocks * inverse + 0.5).floor().clamp(-8, 7)  # (blocks, 32)
    return (codes * scale).view_as(weight).to(weight.dtype)


class Int4AwareBase:
    """The frozen linear weights of `model` that an int4 export rounds, exact and rounded, to switch between."""

    def __init__(self, model: Any) -> None:
        layer_count = model.config.num_hidden_layers
        self.layers = []
        for name, module in model.named_modules():
            match = _LAYER.search(name)
            if match is None or not isinstance(module, torch.nn.Linear) or module.weight.requires_grad:
                continue
            if module.weight.shape[1] % BLOCK_SIZE == 0 and not gets_8_bits(int(match[1]), layer_count, match[2]):
                self.layers.append(module)
        self.exact = [layer.weight.data for layer in self.layers]
        self.rounded = [round_to_int4(weight) for weight in self.exact]

    def use_rounded(self, rounded: bool) -> None:
        """Put the rounded or the exact weights into the model."""
        for layer, weight in zip(self.layers, self.rounded if rounded else self.exact, strict=True):
            layer.weight.data = weight
