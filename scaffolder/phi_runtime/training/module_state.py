"""Temporary changes of a module, and rows on which to compare what a model computes with and without them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

# Largest difference of logits that counts as rounding, in standard deviations of the logits: far above the rounding of bfloat16, far
# below the effect of another row's tokens.
_LEAK_TOLERANCE = 0.1


@contextmanager
def forward_replaced(module: Any, forward: Callable[..., Any]) -> Iterator[None]:
    """Replace the forward function of `module` within the context."""
    previous = vars(module).get("forward")
    module.forward = forward
    try:
        yield
    finally:
        if previous is None:
            del module.forward
        else:
            module.forward = previous


@contextmanager
def evaluation_mode(module: Any) -> Iterator[None]:
    """Let `module` compute without dropout and without gradients within the context."""
    was_training = module.training
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        module.train(was_training)


def probe_rows(model: Any, lengths: Sequence[int]) -> list[torch.Tensor]:
    """Return rows (T,) of these lengths, of random tokens that `model` has, the same in each call."""
    generator = torch.Generator().manual_seed(0)
    vocab_size = min(model.config.get_text_config().vocab_size, 30_000)
    return [torch.randint(vocab_size, (length,), generator=generator) for length in lengths]


def are_equal(logits: torch.Tensor, expected: torch.Tensor) -> bool:
    """Return True if logits (N, V) differ from the expected ones by no more than rounding."""
    return bool((logits - expected).abs().max() <= _LEAK_TOLERANCE * expected.std())
