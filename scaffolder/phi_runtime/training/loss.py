"""Cross-entropy of the tokens that are trained, without the matrix of all their logits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn import functional

_CHUNK_BYTES = 64_000_000  # of float32 logits that are there at once


class _LinearCrossEntropy(torch.autograd.Function):
    """The gradient is computed with the loss, chunk by chunk, so that no logits are kept for the backward pass and none are
    computed twice (after Liger's fused linear cross-entropy, https://arxiv.org/abs/2410.10989)."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        targets: torch.Tensor,
        smoothing: float,
        dtype: torch.dtype,
        learns: bool,
    ) -> torch.Tensor:
        vocabulary, matrix = weight.shape[0], weight.to(dtype)
        rows = max(1, _CHUNK_BYTES // (4 * vocabulary))
        to_hidden = torch.empty_like(hidden) if learns and hidden.requires_grad else None
        to_weight = torch.zeros_like(weight) if learns and weight.requires_grad else None
        total = hidden.new_zeros((), dtype=torch.float32)
        for start in range(0, len(hidden), rows):
            some = hidden[start : start + rows].to(dtype)  # (R, H)
            wanted = targets[start : start + rows, None]  # (R, 1)
            logits = functional.linear(some, matrix).float()  # (R, V)
            told = logits.gather(1, wanted).sum() * (1 - smoothing)
            if smoothing:
                told += logits.mean(dim=1).sum() * smoothing
            most = logits.amax(dim=1, keepdim=True)
            share = logits.sub_(most).exp_()
            whole = share.sum(dim=1, keepdim=True)
            total += (whole.log() + most).sum() - told
            if to_hidden is None and to_weight is None:
                continue
            share.div_(whole)  # now the softmax, and from it the gradient of the logits
            if smoothing:
                share.sub_(smoothing / vocabulary)
            share.scatter_add_(1, wanted, torch.full_like(wanted, smoothing - 1, dtype=share.dtype))
            step = share.to(dtype)
            if to_hidden is not None:
                to_hidden[start : start + rows] = step @ matrix
            if to_weight is not None:
                to_weight += step.T @ some
        ctx.save_for_backward(to_hidden, to_weight)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        scale = gradients[0]
        to_hidden, to_weight = ctx.saved_tensors
        return (
            None if to_hidden is None else to_hidden * scale.to(to_hidden.dtype),
            None if to_weight is None else to_weight * scale.to(to_weight.dtype),
            None,
            None,
            None,
            None,
        )


def linear_cross_entropy(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    targets: torch.Tensor,
    smoothing: float = 0.0,
    dtype: torch.dtype = torch.float32,
) -> torch.Tensor:
    """Sum over N of the cross-entropy of `targets` (N,) under the logits `hidden` (N, H) @ `weight` (V, H) transposed.

    `dtype` is that of the matrix products; all else is float32. `smoothing` is that of labels: torch.nn.functional.cross_entropy.
    Holds 64 MB of logits at most, whatever N is.
    """
    learns = torch.is_grad_enabled()
    made: torch.Tensor = _LinearCrossEntropy.apply(hidden, weight, targets, smoothing, dtype, learns)
    return made


class Loss:
    """The loss of a causal language model over the tokens that a batch trains.

    Where the model's output head is a plain matrix and nothing comes after it, which is tried once, the head is left out of
    the model's forward pass and multiplied within the loss, in `dtype`.
    """

    def __init__(self, model: Any, dtype: torch.dtype = torch.float32, virtual_tokens: int = 0) -> None:
        self.dtype, self.virtual_tokens = dtype, virtual_tokens
        inner = model.get_base_model() if hasattr(model, "get_base_model") else model
        self.head = inner.get_output_embeddings()
        spread = len(set(getattr(inner, "hf_device_map", {}).values())) > 1  # over several devices
        self.fused = not spread and _plain(self.head) and self._comes_last(model)

    def total(self, model: Any, batch: dict[str, torch.Tensor], smoothing: float = 0.0) -> torch.Tensor:
        """Sum over the trained tokens of `batch`: `labels` (B, T) holds the token where it is trained and -100 elsewhere.

        The vocabulary projection, which dominates small models, runs on the positions before those tokens alone
        (`logits_to_keep`, transformers ≥ 5.20). A packed batch has `position_ids` and no mask.
        """
        labels = batch["labels"]
        keep = trained_positions(labels)
        targets = labels[:, 1:][keep[:, :-1]]  # (N,)
        # peft puts the virtual tokens of a prompt that is trained before the others.
        seen = functional.pad(keep, (self.virtual_tokens, 0))
        read = {name: batch[name] for name in ("input_ids", "attention_mask", "position_ids") if name in batch}
        if not (self.fused and _plain(self.head)):  # FSDP cuts the head to pieces after it was tried
            logits = model(**read, logits_to_keep=seen, use_cache=False).logits
            logits = logits.float().view(-1, logits.shape[-1])  # (N, V)
            return functional.cross_entropy(logits, targets, reduction="sum", label_smoothing=smoothing)
        with _instead_of(self.head, _itself):
            hidden = model(**read, logits_to_keep=seen, use_cache=False).logits  # (…, N, H)
        hidden = hidden.reshape(-1, hidden.shape[-1])
        return linear_cross_entropy(hidden, self.head.weight, targets, smoothing, self.dtype)

    def _comes_last(self, model: Any) -> bool:
        """Whether the model gives out what its head gives: some cap or scale it."""
        told = torch.linspace(-100, 100, self.head.weight.shape[0], device=self.head.weight.device)  # (V,)
        ids = torch.arange(10, 26, device=told.device)[None] % len(told)  # (1, T)
        was_training = model.training
        model.eval()
        with (
            torch.no_grad(),
            _instead_of(self.head, lambda hidden: told.to(hidden.dtype).expand(*hidden.shape[:-1], -1)),
        ):
            logits = model(input_ids=ids, use_cache=False).logits
        model.train(was_training)
        return bool((logits == told.to(logits.dtype)).all())


def trained_positions(labels: torch.Tensor) -> torch.Tensor:
    """Where in (B, T) the next token is trained, as a mask."""
    keep = torch.zeros_like(labels, dtype=torch.bool)
    keep[:, :-1] = labels[:, 1:] != -100
    return keep


def _plain(head: Any) -> bool:
    """Whether the head is a matrix of its own: no adapter, no 4-bit weight, no bias, no shard of one."""
    return type(head) is torch.nn.Linear and head.bias is None and type(head.weight) is torch.nn.Parameter


@contextmanager
def _instead_of(head: Any, function: Callable[[torch.Tensor], torch.Tensor]) -> Iterator[None]:
    """Within it, `function` takes the head's place."""
    before = vars(head).get("forward")
    head.forward = function
    try:
        yield
    finally:
        if before is None:
            del head.forward
        else:
            head.forward = before


def _itself(hidden: torch.Tensor) -> torch.Tensor:
    return hidden
