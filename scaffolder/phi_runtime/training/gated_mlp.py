"""Gated MLPs that keep less for the backward pass: act(gate), a third of their activations, is computed again there.

`down(act(gate(x)) · up(x))` is the MLP of Phi-3, Llama, Qwen, Gemma and their kin (Shazeer 2020,
https://arxiv.org/abs/2002.05202). PyTorch keeps gate, act(gate) and up for the backward pass of the product.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from phi_runtime.training.module_state import evaluation_mode, forward_replaced

Activation = Callable[[torch.Tensor], torch.Tensor]


class _GatedProduct(torch.autograd.Function):
    """The product act(gate) · up, which keeps gate and up alone."""

    @staticmethod
    def forward(ctx: Any, gate: torch.Tensor, up: torch.Tensor, activation: Activation) -> torch.Tensor:
        ctx.save_for_backward(gate, up)
        ctx.activation = activation
        return activation(gate) * up

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:
        gate, up = ctx.saved_tensors
        with torch.enable_grad():
            gate = gate.detach().requires_grad_()
            activated = ctx.activation(gate)
        (of_gate,) = torch.autograd.grad(activated, gate, gradient * up)
        return of_gate, gradient * activated.detach(), None


@contextmanager
def recomputed_gates(model: Any) -> Iterator[int]:
    """Compute act(gate) of all gated MLPs of `model` again in backward passes within the context; yield their number.

    An MLP of which this module does not know the forward function, to the last bit, stays as it is.
    """
    known: dict[type, bool] = {}
    with ExitStack() as stack:
        count = 0
        for mlp in model.modules():
            forward = _forward_of(mlp)
            if forward is None:
                continue
            if type(mlp) not in known:
                known[type(mlp)] = _computes_the_same(mlp, forward)
            if known[type(mlp)]:
                stack.enter_context(forward_replaced(mlp, forward))
                count += 1
        yield count


def _forward_of(mlp: Any) -> Callable[[torch.Tensor], torch.Tensor] | None:
    """Return the forward function of a gated MLP that keeps less; None if `mlp` has not the parts of one."""
    parts = dict(mlp.named_children())
    activation = parts.get("act_fn", parts.get("activation_fn"))
    if activation is None or "down_proj" not in parts:
        return None
    if {"gate_proj", "up_proj"} <= parts.keys():
        return partial(_separate, mlp, activation)
    return partial(_fused, mlp, activation) if "gate_up_proj" in parts else None


def _separate(mlp: Any, activation: Activation, hidden: torch.Tensor) -> torch.Tensor:
    product: torch.Tensor = _GatedProduct.apply(mlp.gate_proj(hidden), mlp.up_proj(hidden), activation)
    return mlp.down_proj(product)


def _fused(mlp: Any, activation: Activation, hidden: torch.Tensor) -> torch.Tensor:
    gate, up = mlp.gate_up_proj(hidden).chunk(2, dim=-1)
    return mlp.down_proj(_GatedProduct.apply(gate, up, activation))


def _computes_the_same(mlp: Any, forward: Callable[[torch.Tensor], torch.Tensor]) -> bool:
    """Return True if `forward` returns what `mlp` does, to the last bit."""
    weight = next(mlp.parameters())
    size = next(module.in_features for module in mlp.modules() if hasattr(module, "in_features"))
    hidden = torch.randn(1, 3, size, generator=torch.Generator().manual_seed(0)).to(weight.device)
    if weight.is_floating_point():
        hidden = hidden.to(weight.dtype)
    try:
        with evaluation_mode(mlp):
            return torch.equal(forward(hidden), mlp(hidden))
    except (RuntimeError, TypeError, ValueError):
        return False
