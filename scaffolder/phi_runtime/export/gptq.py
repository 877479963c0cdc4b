"""GPTQ: round a weight to 4 bits so that its outputs change least (Frantar et al. 2022, https://arxiv.org/abs/2210.17323).

The values are those that the builder of ONNX Runtime GenAI rounds to itself. Its scale of a block is the largest value divided by
-8, so one value of each block has the code -8, and the builder finds the scales and codes chosen here again. Scales have the 8
bits of bfloat16: so they do in each number type of a checkpoint.

Shapes: N outputs, K inputs, B weights of a block.
"""

from __future__ import annotations

import torch
from torch.nn import functional

_SHRINKAGE = tuple(1 - 0.05 * step for step in range(11))
"""Scales to try, as shares of the one that keeps the largest value of a block."""
_LOW, _HIGH = -8, 7
_COLUMNS = 128  # rounded before the rest is updated at once: the error of each reaches the others of its group first


def gptq(weight: torch.Tensor, hessian: torch.Tensor, block_size: int, damping: float) -> torch.Tensor:
    """Return `weight` with 16 values in each block of a row, chosen for small errors of its outputs.

    Columns are rounded in the order of their inputs' size, and the error of each is compensated by those that follow.

    Args:
        weight: (N, K).
        hessian: (K, K), mean of x·xᵀ over the inputs x.
        block_size: Weights of a row that share one scale.
        damping: Added to the diagonal of the Hessian, as a share of its mean.

    Returns:
        (N, K) in float32.
    """
    columns = weight.shape[1]
    order = hessian.diagonal().argsort(descending=True)
    factor = _inverse_factor(hessian[order][:, order], damping)
    importance = torch.empty(columns)
    importance[order] = factor.diagonal() ** -2
    scale, lowest = _scales(weight.float(), importance, block_size)  # (N, K) each
    scale, lowest = scale[:, order].T.contiguous(), lowest[:, order].T.contiguous()  # (K, N)
    inverse = torch.where(scale == 0, 0.0, 1 / scale)
    rest = weight.float()[:, order].T.contiguous()  # (K, N), what remains to be rounded
    rounded = torch.empty_like(rest)
    for start in range(0, columns, _COLUMNS):
        end = min(start + _COLUMNS, columns)
        errors = torch.empty_like(rest[start:end])
        for i in range(start, end):
            codes = torch.where(lowest[i], _LOW, (rest[i] * inverse[i]).round().clamp(_LOW, _HIGH))
            rounded[i] = codes * scale[i]
            errors[i - start] = (rest[i] - rounded[i]) / factor[i, i]
            rest[i + 1 : end] -= torch.outer(factor[i, i + 1 : end], errors[i - start])
        rest[end:] -= factor[start:end, end:].T @ errors
    result = torch.empty_like(rounded)
    result[order] = rounded
    return result.T.contiguous()


def _inverse_factor(hessian: torch.Tensor, damping: float) -> torch.Tensor:
    """Return the upper Cholesky factor of the inverse of the damped Hessian."""
    damped = hessian.float().clone()
    mean = damped.diagonal().mean()
    if not mean > 0:  # the module was never used
        return torch.eye(len(damped))
    damped.diagonal().add_(damping * mean)
    return torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(damped)), upper=True)


def _scales(weight: torch.Tensor, importance: torch.Tensor, block_size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Choose the scale of each block, of either sign, with the smallest squared error of its values by `importance` (K,).

    Returns:
        The scale of each value, and True for the value of each block that gets the code -8; both (N, K).
    """
    rows, columns = weight.shape
    padding = (0, -columns % block_size)
    blocks = functional.pad(weight, padding).view(rows, -1, block_size)  # (N, blocks, B)
    cost = functional.pad(importance, padding).view(-1, block_size)  # (blocks, B)
    best = torch.zeros_like(blocks[..., :1])
    least = torch.full_like(best, torch.inf)
    for extreme in (blocks.amax(2, keepdim=True), blocks.amin(2, keepdim=True)):
        for share in _SHRINKAGE:
            scale = (extreme / _LOW * share).bfloat16().float()
            codes = (blocks * torch.where(scale == 0, 0.0, 1 / scale)).round().clamp(_LOW, _HIGH)
            error = ((blocks - codes * scale).square() * cost).sum(2, keepdim=True)
            better = (error < least) & (codes.amin(2, keepdim=True) == _LOW)
            best, least = torch.where(better, scale, best), torch.where(better, error, least)
    lowest = torch.zeros_like(blocks, dtype=torch.bool)
    lowest.scatter_(2, (blocks * best.sign()).argmin(2, keepdim=True), True)
    return best.expand_as(blocks).reshape(rows, -1)[:, :columns], lowest.view(rows, -1)[:, :columns]
