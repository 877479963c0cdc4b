"""GPTQ: round a weight to 4 bits so that its outputs change least (Frantar et al. 2022, https://arxiv.org/abs/2210.17323).

The values are those that the builder of ONNX Runtime GenAI rounds to itself. Its scale of a block is the largest value divided by
-8, so one value of each block has the code -8, and the builder finds the scales and codes chosen here again. Scales have the 8
bits of bfloat16: so they do in each number type of a checkpoint.

Shapes: N outputs, K inputs, B weights of a block. Weights are transposed, (K, N), so that the loops read contiguous memory.
"""

from __future__ import annotations

import torch
from torch.nn import functional

_SHRINKAGE = tuple(1 - 0.05 * step for step in range(11))
"""Scales to try, as shares of the one that keeps the largest value of a block."""
_LOW, _HIGH = -8, 7
_COLUMNS = 64  # rounded before the rest is updated at once: the error of each reaches the others of its group first
_BLOCKS = 4096  # whose scales are chosen at once: they fit into a cache


class Gptq:
    """Rounds the weights of all modules that have the same input.

    Columns are rounded in the order of their inputs' size, and the error of each is compensated by those that follow.
    """

    def __init__(self, hessian: torch.Tensor, block_size: int, damping: float) -> None:
        """Factorize the Hessian.

        Args:
            hessian: (K, K), mean of x·xᵀ over the inputs x.
            block_size: Weights of a row that share one scale.
            damping: Added to the diagonal of the Hessian, as a share of its mean.
        """
        self._block_size = block_size
        self._order = hessian.diagonal().argsort(descending=True)
        self._factor = _inverse_factor(hessian[self._order][:, self._order], damping)

    def rounded(self, weight: torch.Tensor) -> torch.Tensor:
        """Return `weight` (N, K) in float32, with 16 values in each block of a row, chosen for small errors of its outputs."""
        columns = weight.shape[1]
        transposed = weight.T.float().contiguous()  # (K, N)
        importance = torch.empty(columns)
        importance[self._order] = self._factor.diagonal() ** -2
        scale, lowest = (chosen[self._order] for chosen in _scales(transposed, importance, self._block_size))
        inverse = torch.where(scale == 0, 0.0, 1 / scale)
        rest = transposed[self._order]  # (K, N): rounded up to the current column, and what remains to be rounded
        divisors = self._factor.diagonal().tolist()
        for start in range(0, columns, _COLUMNS):
            end = min(start + _COLUMNS, columns)
            errors = torch.empty_like(rest[start:end])
            for i in range(start, end):
                codes = (rest[i] * inverse[i]).round_().clamp_(_LOW, _HIGH).masked_fill_(lowest[i], _LOW)
                value = codes.mul_(scale[i])
                error = torch.sub(rest[i], value, out=errors[i - start]).div_(divisors[i])
                rest[i] = value
                rest[i + 1 : end].addr_(self._factor[i, i + 1 : end], error, alpha=-1)
            rest[end:].addmm_(self._factor[start:end, end:].T, errors, alpha=-1)
        result = torch.empty_like(rest)
        result[self._order] = rest
        return result.T


def _inverse_factor(hessian: torch.Tensor, damping: float) -> torch.Tensor:
    """Return the upper Cholesky factor of the inverse of the damped Hessian."""
    damped = hessian.float().clone()
    mean = damped.diagonal().mean()
    if not mean > 0:  # the module was never used
        return torch.eye(len(damped))
    damped.diagonal().add_(damping * mean)
    return torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(damped)), upper=True)


def _scales(weight: torch.Tensor, importance: torch.Tensor, block_size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Choose the scale of each block of a weight (K, N), with the smallest squared error of its values by `importance` (K,).

    Returns:
        The scale of each value, and True for the value of each block that gets the code -8; both (K, N).
    """
    columns, rows = weight.shape
    missing = -columns % block_size
    blocks = functional.pad(weight, (0, 0, 0, missing)).view(-1, block_size, rows)  # (blocks, B, N)
    cost = functional.pad(importance, (0, missing)).view(-1, block_size, 1)
    part = max(1, _BLOCKS // rows)
    best = torch.cat([_best_scale(*pair) for pair in zip(blocks.split(part), cost.split(part), strict=True)])
    lowest = torch.zeros_like(blocks, dtype=torch.bool)
    lowest.scatter_(1, (blocks * best.sign()).argmin(1, keepdim=True), True)
    return best.expand_as(blocks).reshape(-1, rows)[:columns], lowest.view(-1, rows)[:columns]


def _best_scale(blocks: torch.Tensor, cost: torch.Tensor) -> torch.Tensor:
    """Return the best scale of each block, of either sign: (blocks, 1, N) for (blocks, B, N) and the costs (blocks, B, 1)."""
    best = torch.zeros_like(blocks[:, :1])
    least = torch.full_like(best, torch.inf)
    values = torch.empty_like(blocks)
    for extreme in (blocks.amax(1, keepdim=True), blocks.amin(1, keepdim=True)):
        for share in _SHRINKAGE:
            scale = (extreme / _LOW * share).bfloat16().float()
            inverse = torch.where(scale == 0, 0.0, 1 / scale)
            torch.mul(blocks, inverse, out=values).round_().clamp_(_LOW, _HIGH)
            has_lowest = values.amin(1, keepdim=True) == _LOW
            error = values.mul_(scale).sub_(blocks).square_().mul_(cost).sum(1, keepdim=True)
            better = (error < least) & has_lowest
            best, least = torch.where(better, scale, best), torch.where(better, error, least)
    return best
