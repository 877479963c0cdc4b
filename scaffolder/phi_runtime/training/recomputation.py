"""Activations that take little time are not kept for the backward pass but computed again, to the same bits.

With plain PyTorch the graph of a decoder layer keeps much that follows, in a few passes over memory, from what it keeps anyway:

- the output of a norm, from the states that enter it
- act(gate) · up of a gated MLP, `down(act(gate(x)) · up(x))` (Shazeer 2020, https://arxiv.org/abs/2002.05202), from gate and up
- a small part of a larger tensor, such as the values in a fused query, key and value, is copied, so that the rest can go

This is selective recomputation (Korthikanti et al. 2022, https://arxiv.org/abs/2205.05198) of elementwise operations. In contrast to
PyTorch's selective checkpointing, no other operation is intercepted, which would take a sixth more time on a CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial, wraps
from typing import Any

import torch
from torch.autograd.function import once_differentiable
from torch.autograd.graph import saved_tensors_hooks
from torch.multiprocessing.reductions import StorageWeakRef

from phi_runtime.training.module_state import evaluation_mode, forward_replaced

Function = Callable[..., torch.Tensor]

_PART_TO_COPY = 1 / 3  # of a storage; the halves of a fused gate and up are both kept


@dataclass(frozen=True)
class _Tensor:
    """A tensor that is kept, and how often it had been changed in place."""

    tensor: torch.Tensor
    version: int


@dataclass(frozen=True)
class _Recipe:
    """A way to compute a tensor again: `function` of `inputs`, under the autocast of the forward pass."""

    function: Function
    inputs: tuple[_Tensor | _View, ...]
    autocast: dict[str, Any]


@dataclass(frozen=True)
class _View:
    """A tensor that is not kept: a view, with this geometry, of what `recipe` computes."""

    recipe: _Recipe
    size: torch.Size
    stride: tuple[int, ...]
    offset: int


class Recomputation:
    """The tensors that the graph of a forward pass keeps, and recipes of those that can be computed again."""

    def __init__(self, model: Any) -> None:
        self._weights = {_address(tensor) for tensor in (*model.parameters(), *model.buffers())}
        self._recipes: dict[int, tuple[StorageWeakRef, int, _Recipe]] = {}  # by the address of their result
        self._last: tuple[_Recipe, torch.Tensor] | None = None

    @contextmanager
    def forward_pass(self) -> Iterator[None]:
        """Keep less of what is computed within the context."""
        self._last = None
        try:
            with saved_tensors_hooks(self._keep, self._get):
                yield
        finally:
            self._recipes.clear()

    def can_compute(self, result: torch.Tensor, function: Function, *inputs: torch.Tensor) -> None:
        """Remember that `result` is `function` of `inputs`, while it is alive and is not changed in place."""
        storage = result.untyped_storage()
        if result.requires_grad and storage.nbytes() == result.numel() * result.element_size():
            recipe = _Recipe(function, tuple(map(self._kept, inputs)), _autocast(result.device.type))
            self._recipes[storage.data_ptr()] = (StorageWeakRef(storage), result._version, recipe)

    def _keep(self, tensor: torch.Tensor) -> _Tensor | _View:
        kept = self._kept(tensor)
        if isinstance(kept, _Tensor) and _address(tensor) not in self._weights:
            size_bytes = tensor.numel() * tensor.element_size()
            if size_bytes <= _PART_TO_COPY * tensor.untyped_storage().nbytes():
                return _Tensor(tensor.detach().clone(), 0)
        return kept

    def _kept(self, tensor: torch.Tensor) -> _Tensor | _View:
        """Return the recipe of `tensor` if there is one, else `tensor`."""
        found = self._recipes.get(_address(tensor))
        if found is not None:
            storage, version, recipe = found
            if tensor._version == version and not storage.expired():
                return _View(recipe, tensor.size(), tensor.stride(), tensor.storage_offset())
        return _Tensor(tensor, tensor._version)

    def _get(self, kept: _Tensor | _View) -> torch.Tensor:
        if isinstance(kept, _Tensor):
            if kept.tensor._version != kept.version:  # PyTorch does not check what hooks keep
                raise RuntimeError("a tensor that the backward pass needs was changed in place after it was used")
            return kept.tensor
        recipe = kept.recipe
        if (
            self._last is None or self._last[0] is not recipe
        ):  # the adapters of query, key and value need the same input
            with torch.no_grad(), torch.autocast(**recipe.autocast):
                self._last = recipe, recipe.function(*map(self._get, recipe.inputs))
        return self._last[1].as_strided(kept.size, kept.stride, kept.offset)


class _ComputedAgain(torch.autograd.Function):
    """A function that keeps its `inputs` first tensors alone; the others are trained weights that it uses."""

    @staticmethod
    def forward(ctx: Any, function: Function, inputs: int, *tensors: torch.Tensor) -> torch.Tensor:
        ctx.function, ctx.weights, ctx.autocast = function, tensors[inputs:], _autocast(tensors[0].device.type)
        ctx.save_for_backward(*tensors[:inputs])
        return function(*tensors[:inputs])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        inputs = [tensor.detach().requires_grad_() for tensor in ctx.saved_tensors]
        with torch.enable_grad(), torch.autocast(**ctx.autocast):
            result = ctx.function(*inputs)
        return None, None, *torch.autograd.grad(result, (*inputs, *ctx.weights), gradient)


@contextmanager
def recomputed_activations(model: Any) -> Iterator[int]:
    """Compute outputs of norms and gated MLPs of `model` again in backward passes within the context; yield their number.

    An MLP of which this module does not know the forward function, to the last bit, stays as it is.
    """
    memory = Recomputation(model)
    known: dict[type, bool] = {}
    with ExitStack() as stack:
        count = 0
        for module in model.modules():
            if _is_norm(module):
                forward: Function | None = partial(_norm, memory, module, module.forward)
            else:
                forward = _gated(memory, module)
                if forward and type(module) not in known:
                    known[type(module)] = _computes_the_same(module, forward)
            if forward and known.get(type(module), True):
                stack.enter_context(forward_replaced(module, forward))
                count += 1
        stack.enter_context(forward_replaced(model, _keeping_less(memory, model.forward)))
        yield count


def _keeping_less(memory: Recomputation, forward: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(forward)
    def keeping_less(*args: Any, **kwargs: Any) -> Any:
        with memory.forward_pass():
            return forward(*args, **kwargs)

    return keeping_less


# -- norms ------------------------------------------------------------------------------------------------------------


def _is_norm(module: Any) -> bool:
    is_norm = type(module).__name__.endswith(("RMSNorm", "LayerNorm"))
    return is_norm and not any(True for _ in (*module.children(), *module.buffers()))


def _norm(memory: Recomputation, module: Any, forward: Function, hidden: torch.Tensor, *others: Any) -> torch.Tensor:
    if others:  # not a norm of one tensor
        return forward(hidden, *others)
    weights = [weight for weight in module.parameters() if weight.requires_grad]
    if isinstance(module, torch.nn.LayerNorm) or (hidden.dtype == torch.float32 and not weights):
        result = forward(hidden)  # keeps `hidden`, and a number for each token
    else:
        result = _ComputedAgain.apply(forward, 1, hidden, *weights)
    memory.can_compute(result, forward, hidden)
    return result


# -- gated MLPs -------------------------------------------------------------------------------------------------------


def _gated(memory: Recomputation, mlp: Any) -> Function | None:
    """Return the forward function of a gated MLP that keeps less; None if `mlp` has not the parts of one."""
    parts = dict(mlp.named_children())
    activation = parts.get("act_fn", parts.get("activation_fn"))
    if activation is None or "down_proj" not in parts:
        return None
    product = partial(_product, memory, lambda gate, up: activation(gate) * up)
    if {"gate_proj", "up_proj"} <= parts.keys():
        return lambda hidden: mlp.down_proj(product(mlp.gate_proj(hidden), mlp.up_proj(hidden)))
    if "gate_up_proj" in parts:
        return lambda hidden: mlp.down_proj(product(*mlp.gate_up_proj(hidden).chunk(2, dim=-1)))
    return None


def _product(memory: Recomputation, function: Function, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    result: torch.Tensor = _ComputedAgain.apply(function, 2, gate, up)
    memory.can_compute(result, function, gate, up)
    return result


def _computes_the_same(mlp: Any, forward: Function) -> bool:
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


# -- tensors ----------------------------------------------------------------------------------------------------------


def _address(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _autocast(device_type: str) -> dict[str, Any]:
    """Return the arguments of the autocast that is active."""
    dtype, enabled = torch.get_autocast_dtype(device_type), torch.is_autocast_enabled(device_type)
    return {"device_type": device_type, "dtype": dtype, "enabled": enabled}
