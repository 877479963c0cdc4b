"""Training that knows it will be rounded: every other step sees the base as the int4 export will leave it.

An adapter that was fitted to the exact base alone leans on differences that 4-bit rounding wipes out. Its own update is far
smaller than a rounding step, so the rounded base that it sees here is, but for a few weights, the one it will be merged into.
"""

from __future__ import annotations

import re
from typing import Any

import torch

from phi_runtime.models.builder_source import gets_8_bits

BLOCK_SIZE = 32  # the builder's own default
_PLACE = re.compile(r"\.layers\.(\d+)\.(?:\w+\.)*?(\w+)(?:\.base_layer)?$")


def round_to_int4(weight: torch.Tensor) -> torch.Tensor:
    """`weight` (N, K) as it is read back after onnxruntime's own rounding to 4 bits: codes -8 … 7 of a scale that a block of a row
    shares, whose size and sign make the largest weight -8 (MlasQuantizeBlockwise, symmetric)."""
    blocks = weight.float().view(-1, BLOCK_SIZE)
    scale = blocks.gather(1, blocks.abs().argmax(dim=1, keepdim=True)) / -8
    inverse = torch.where(scale == 0, 0.0, 1 / scale)
    codes = (blocks * inverse + 0.5).floor().clamp(-8, 7)
    return (codes * scale).view_as(weight).to(weight.dtype)


class AlternatingBase:
    """Holds a rounded copy of each frozen linear weight that an int4 export rounds, and puts in the one that a step is to see."""

    def __init__(self, model: Any) -> None:
        count = model.config.num_hidden_layers
        self.layers = []
        for name, module in model.named_modules():
            place = _PLACE.search(name)
            if place is None or not isinstance(module, torch.nn.Linear) or module.weight.requires_grad:
                continue
            if module.weight.shape[1] % BLOCK_SIZE == 0 and not gets_8_bits(int(place[1]), count, place[2]):
                self.layers.append(module)
        self.exact = [m.weight.data for m in self.layers]
        self.rounded = [round_to_int4(w) for w in self.exact]

    def see(self, rounded: bool) -> None:
        """Puts the rounded or the exact weights into the model."""
        for layer, weight in zip(self.layers, self.rounded if rounded else self.exact, strict=True):
            layer.weight.data = weight
