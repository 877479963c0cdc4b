"""Int4-aware training: the base weights as the int4 export will round them, in every other step.

An adapter that is fitted to the exact base alone, or to another rounding of it, relies on differences that the rounding of the
export removes. Its own update is far smaller than a rounding step, so the rounded base used here is, but for a few weights, the
one it is merged into.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

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


class Codes(NamedTuple):
    """A weight (N, K) in blocks of a row: weight = (values - zero) · scale.

    Attributes:
        values: (N, blocks, block_size) whole numbers as floats, from 0 on if there are zero points, else around 0.
        zero: (N, blocks, 1); 0 if symmetric.
        scale: (N, blocks, 1).
    """

    values: torch.Tensor
    zero: torch.Tensor
    scale: torch.Tensor


def quantize(weight: torch.Tensor, block_size: int = 32, *, symmetric: bool = True, bits: int = 4) -> Codes:
    """Quantize a weight as ONNX Runtime does (MlasQuantizeBlockwise).

    Each block of a row has one scale. If symmetric, size and sign of the scale map the largest weight to the lowest code, -8 in
    4 bits; else the codes are 0 … 15 with a zero point, and the scale covers the range of the block and zero. The last block of
    a row is padded with zeros.

    Args:
        weight: (N, K).
        block_size: Weights that share one scale.
        symmetric: Without zero points.
        bits: 4 or 8.
    """
    rows, columns = weight.shape
    padded = functional.pad(weight.float(), (0, -columns % block_size))
    blocks = padded.view(rows, -1, block_size)
    if symmetric:
        low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
        scale = blocks.gather(2, blocks.abs().argmax(dim=2, keepdim=True)) / low
        zero = torch.zeros_like(scale)
    else:
        low, high = 0, 2**bits - 1
        least = blocks.amin(dim=2, keepdim=True).clamp(max=0)
        scale = (blocks.amax(dim=2, keepdim=True).clamp(min=0) - least) / high
        zero = (-least * _inverse(scale)).round().clamp(low, high)
    return Codes((blocks * _inverse(scale) + zero + 0.5).floor().clamp(low, high), zero, scale)


def round_to_int4(weight: torch.Tensor, block_size: int = 32, *, symmetric: bool = True, bits: int = 4) -> torch.Tensor:
    """Return `weight` (N, K) after `quantize` and back, in its shape and type."""
    rows, columns = weight.shape
    values, zero, scale = quantize(weight, block_size, symmetric=symmetric, bits=bits)
    return ((values - zero) * scale).view(rows, -1)[:, :columns].to(weight.dtype)


def _inverse(scale: torch.Tensor) -> torch.Tensor:
    return torch.where(scale == 0, 0.0, 1 / scale)


def rounded_modules(model: Any, rounding: Int4Rounding) -> Iterator[tuple[str, torch.nn.Linear, int]]:
    """Yield name, module and bits of the linear modules of `model` that an int4 export rounds, but for the output head."""
    layer_count = model.config.get_text_config().num_hidden_layers
    excluded = {(int(layer), module) for node in rounding.excluded for layer, module in _NODE.findall(node)}
    apart = {layer for layer, module in excluded if _PARTS.get(module) == "qkv_proj"}  # where the builder packs nothing
    for name, module in model.named_modules():
        match = _LAYER.search(name)
        if match is None or not isinstance(module, torch.nn.Linear):
            continue
        layer, own = int(match[1]), match[2]
        names = {own, _PARTS.get(own, own)}
        if excluded.isdisjoint((layer, node) for node in names):
            nodes = names if rounding.packs_qkv and layer not in apart else {own}
            wide = rounding.sensitive_in_8_bits and any(gets_8_bits(layer, layer_count, node) for node in nodes)
            yield name, module, 8 if wide else 4


class AlternatingBase(Protocol):
    """A base whose weights are exact or rounded."""

    is_rounded: bool

    def use_rounded(self, rounded: bool) -> None:
        """Compute with the rounded or the exact weights."""


class Int4AwareBase:
    """The frozen linear weights of `model` that an int4 export rounds, exact and rounded, to switch between.

    Attributes:
        is_rounded: The rounded weights are in the model.
    """

    def __init__(self, model: Any, rounding: Int4Rounding | None = None) -> None:
        rounding = rounding or Int4Rounding()
        modules = rounded_modules(model, rounding)
        self.layers = [module for _, module, bits in modules if bits == 4 and not module.weight.requires_grad]
        self.exact = [layer.weight.data for layer in self.layers]
        self.is_rounded = False
        self.rounded = [round_to_int4(w, rounding.block_size, symmetric=rounding.symmetric) for w in self.exact]

    def use_rounded(self, rounded: bool) -> None:
        """Put the rounded or the exact weights into the model."""
        self.is_rounded = rounded
        for layer, weight in zip(self.layers, self.rounded if rounded else self.exact, strict=True):
            layer.weight.data = weight
