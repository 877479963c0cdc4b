"""GPTQ (Frantar et al. 2022, https://arxiv.org/abs/2210.17323): weights are rounded one column after another, and what one
rounding loses is made up for by the columns that are still to come, so that the layer's output on real text stays the same.

The weights are only moved onto the grid here, in float32; the ONNX model builder then rounds to nearest, which finds them there.
Its grid is that of ONNX Runtime's RTN: blocks of `block_size` weights of a row, scale 2·max|w| / 15, codes -8 … 7.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

DAMPING = 0.01
_COLUMNS_AT_ONCE = 128
_TEXTS_AT_ONCE = 32

Keep = Callable[[int, str], bool]


class _Captured(Exception):
    """The input of the first layer was seen; the rest of the forward pass is not needed."""


@torch.no_grad()
def move_to_grid(
    model: Any, texts: Sequence[Sequence[int]], block_size: int, keep: Keep, on_layer: Callable[[int, int], None]
) -> None:
    """Moves the linear weights of all decoder layers of `model` (float32) onto the 4-bit grid, in place.

    `texts` are token ids of typical texts. `keep(layer, name)` says which weights stay as they are (those that get 8 bits);
    `on_layer(done, count)` is told of each finished layer. Layers are taken in order, each seeing what the rounded ones before
    it give.
    """
    layers = decoder_layers(model)
    states = [_first_input(model, layers[0], batch) for batch in _batches_of_one_length(texts)]
    for index, layer in enumerate(layers):
        linear = {n: m for n, m in layer.named_modules() if isinstance(m, torch.nn.Linear) and not keep(index, n)}
        second_moments = _observe(layer, linear, states)
        for name, module in linear.items():
            module.weight.copy_(round_weight(module.weight, second_moments[name], block_size))
        for state in states:
            output = layer(*state["args"], **state["kwargs"])
            hidden = output[0] if isinstance(output, tuple) else output
            state["args"] = (hidden, *state["args"][1:])
        on_layer(index + 1, len(layers))


def decoder_layers(model: Any) -> Any:
    """The list of equal layers that a decoder is made of: its longest ModuleList."""
    return max((m for m in model.modules() if isinstance(m, torch.nn.ModuleList)), key=len)


def _batches_of_one_length(texts: Sequence[Sequence[int]]) -> list[torch.Tensor]:
    """Texts of the same length together, (B, T) each: no padding that would have to be kept out of the statistics."""
    by_length: dict[int, list[Sequence[int]]] = {}
    for ids in texts:
        by_length.setdefault(len(ids), []).append(ids)
    return [
        torch.tensor(same[i : i + _TEXTS_AT_ONCE])
        for same in by_length.values()
        for i in range(0, len(same), _TEXTS_AT_ONCE)
    ]


def _first_input(model: Any, first_layer: Any, batch: torch.Tensor) -> dict[str, Any]:
    """What the first decoder layer is called with for a batch of token ids (B, T)."""
    seen: dict[str, Any] = {}

    def capture(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        hidden = kwargs.pop("hidden_states", None)
        seen.update(args=args if hidden is None else (hidden, *args), kwargs=kwargs)
        raise _Captured

    hook = first_layer.register_forward_pre_hook(capture, with_kwargs=True)
    try:
        model(input_ids=batch, use_cache=False)
    except _Captured:
        pass
    finally:
        hook.remove()
    return seen


def _observe(layer: Any, linear: dict[str, Any], states: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """The second moments Xᵀ X (K, K) of the inputs of each linear module, over all `states`."""
    moments = {name: torch.zeros(m.in_features, m.in_features) for name, m in linear.items()}

    def watch(name: str) -> Callable[[Any, tuple[Any, ...]], None]:
        def add(_: Any, args: tuple[Any, ...]) -> None:
            x = args[0].flatten(0, -2).float()  # (B · T, K)
            moments[name].addmm_(x.T, x)

        return add

    hooks = [module.register_forward_pre_hook(watch(name)) for name, module in linear.items()]
    for state in states:
        layer(*state["args"], **state["kwargs"])
    for hook in hooks:
        hook.remove()
    return moments


def round_weight(weight: torch.Tensor, second_moment: torch.Tensor, block_size: int) -> torch.Tensor:
    """`weight` (N, K) on the grid, rounded so that its product with inputs of this `second_moment` (K, K) changes least.

    The largest weight of a block keeps its size, since it is what the builder takes the scale from; the builder's rounding of
    it is known (+7.5 becomes 7) and made up for like any other.
    """
    weight, moment = weight.float().clone(), second_moment.clone()
    diagonal = moment.diagonal()
    diagonal[diagonal == 0] = 1.0
    diagonal += DAMPING * diagonal.mean()
    inverse = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(moment)), upper=True)
    for start in range(0, weight.shape[1], _COLUMNS_AT_ONCE):
        end = min(start + _COLUMNS_AT_ONCE, weight.shape[1])
        part, local = weight[:, start:end].clone(), inverse[start:end, start:end]
        errors = torch.zeros_like(part)
        for i in range(end - start):
            if i % block_size == 0:
                block = part[:, i : i + block_size]
                largest = block.abs().argmax(dim=1)  # (N,)
                scale = (block.abs().amax(dim=1) * 2 / 15).clamp(min=1e-12)
            codes = part[:, i] / scale
            is_largest = largest == i % block_size
            stored = torch.where(is_largest, codes.sign() * 7.5, codes.round().clamp(-7, 7))
            read = torch.where(is_largest & (stored > 0), 7.0, stored)
            error = (part[:, i] - read * scale) / local[i, i]
            part[:, i:] -= error[:, None] * local[i, i:]
            part[:, i], errors[:, i] = stored * scale, error
        weight[:, start:end] = part
        weight[:, end:] -= errors @ inverse[start:end, end:]
    return weight
