"""The decoder layers of a model, and the part of the last one that no other position reads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from phi_runtime.training.module_state import forward_replaced

_MOST = 0.8  # of the positions: above it, selecting them takes as long as computing the others


def decoder_of(model: Any) -> tuple[Any, str, Any]:
    """Return the module that holds the layers of `model`, the name of their list in it, and the list; None if unknown."""
    count = model.config.get_text_config().num_hidden_layers
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.ModuleList) and len(module) == count:
            parent, _, own = name.rpartition(".")
            return model.get_submodule(parent), own, module
    return None, "", None


@contextmanager
def mlp_at(layer: Any, positions: torch.Tensor, elsewhere: float = 0.0) -> Iterator[None]:
    """Let the MLP of `layer` compute `positions` (B, T) alone within the context, and return `elsewhere` at the others.

    Of the last layer nothing reads the others, if the output head runs at `positions` too. All are computed if nearly all are
    read, or if the layer is computed again in the backward pass, which is outside of the context.
    """
    if getattr(layer, "gradient_checkpointing", False) or positions.float().mean() > _MOST:
        yield
        return
    forward = layer.mlp.forward

    def at_positions(hidden: torch.Tensor) -> torch.Tensor:
        where = positions.to(hidden.device)
        computed = forward(hidden[where][None])[0]  # (N, H)
        return computed.new_full(hidden.shape, elsewhere).index_put((where,), computed)

    with forward_replaced(layer.mlp, at_positions):
        yield
