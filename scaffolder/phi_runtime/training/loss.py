"""Cross-entropy fused with the output head: the (N, V) logits of a batch are never all in memory."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import torch
from torch.nn import functional

from phi_runtime.data.sequences import IGNORED
from phi_runtime.training.decoder import decoder_of, mlp_at
from phi_runtime.training.module_state import are_equal, evaluation_mode, forward_replaced

_CHUNK_BYTES = 64_000_000  # of float32 logits in memory at a time


class _LinearCrossEntropy(torch.autograd.Function):
    """Computes the gradient together with the loss, chunk by chunk.

    No logits are kept for the backward pass and none are computed twice, after Liger's fused linear cross-entropy
    (https://arxiv.org/abs/2410.10989).
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        targets: torch.Tensor,
        smoothing: float,
        dtype: torch.dtype,
        needs_grad: bool,
    ) -> torch.Tensor:
        vocab_size, matrix = weight.shape[0], weight.to(dtype)  # (V, H)
        chunk_rows = max(1, _CHUNK_BYTES // (4 * vocab_size))
        grad_hidden = torch.empty_like(hidden) if needs_grad and hidden.requires_grad else None  # (N, H)
        grad_weight = torch.zeros_like(weight) if needs_grad and weight.requires_grad else None  # (V, H)
        total = hidden.new_zeros((), dtype=torch.float32)
        for start in range(0, len(hidden), chunk_rows):
            chunk = hidden[start : start + chunk_rows].to(dtype)  # (C, H), C rows of N
            chunk_targets = targets[start : start + chunk_rows, None]  # (C, 1)
            logits = functional.linear(chunk, matrix).float()  # (C, V)
            target_sum = logits.gather(1, chunk_targets).sum() * (1 - smoothing)
            if smoothing:
                target_sum += logits.mean(dim=1).sum() * smoothing
            max_logit = logits.amax(dim=1, keepdim=True)  # (C, 1)
            exp = logits.sub_(max_logit).exp_()  # (C, V), in place of the logits
            exp_sum = exp.sum(dim=1, keepdim=True)  # (C, 1)
            total += (exp_sum.log() + max_logit).sum() - target_sum
            if grad_hidden is None and grad_weight is None:
                continue
            grad_logits = exp.div_(exp_sum)  # (C, V): softmax − target distribution, in place
            if smoothing:
                grad_logits.sub_(smoothing / vocab_size)
            minus_target = torch.full_like(chunk_targets, smoothing - 1, dtype=grad_logits.dtype)  # (C, 1)
            grad_logits.scatter_add_(1, chunk_targets, minus_target)
            grad_logits = grad_logits.to(dtype)
            if grad_hidden is not None:
                grad_hidden[start : start + chunk_rows] = grad_logits @ matrix
            if grad_weight is not None:
                grad_weight += grad_logits.T @ chunk
        ctx.save_for_backward(grad_hidden, grad_weight)
        return total

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        grad_total = grad_outputs[0]  # scalar
        grad_hidden, grad_weight = ctx.saved_tensors
        return (
            None if grad_hidden is None else grad_hidden * grad_total.to(grad_hidden.dtype),
            None if grad_weight is None else grad_weight * grad_total.to(grad_weight.dtype),
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
    """Return the summed cross-entropy of `targets` under the logits `hidden @ weight.T`.

    At most 64 MB of logits are in memory at a time, whatever N is.

    Args:
        hidden: (N, H), hidden states at the positions before the trained tokens.
        weight: (V, H), the output head.
        targets: (N,), trained tokens.
        smoothing: Label smoothing, as in `torch.nn.functional.cross_entropy`.
        dtype: Type of the matrix products; everything else is float32.

    Returns:
        A scalar, in nats.
    """
    needs_grad = torch.is_grad_enabled()
    total: torch.Tensor = _LinearCrossEntropy.apply(hidden, weight, targets, smoothing, dtype, needs_grad)
    return total


class TokenLoss:
    """Loss of a causal language model, summed over the tokens that a batch trains.

    If the output head is a plain matrix and the model returns what it computes unchanged (checked once), the head is skipped in
    the forward pass and fused with the loss. The MLP of the last layer runs at the positions before trained tokens alone, if
    the model computes the same then (checked once).

    Args:
        model: A causal language model of transformers, or a peft model around one.
        dtype: Type of the fused matrix products.
        virtual_tokens: Length of a trained prompt that peft puts before each row.
    """

    def __init__(self, model: Any, dtype: torch.dtype = torch.float32, virtual_tokens: int = 0) -> None:
        self.dtype, self.virtual_tokens = dtype, virtual_tokens
        base = model.get_base_model() if hasattr(model, "get_base_model") else model
        self.head = base.get_output_embeddings()
        on_several_devices = len(set(getattr(base, "hf_device_map", {}).values())) > 1
        self.fused = not on_several_devices and _is_plain_linear(self.head) and self._head_is_last(model)
        self.last_layer = None if virtual_tokens else self._last_layer(base)

    def total(self, model: Any, batch: dict[str, torch.Tensor], smoothing: float = 0.0) -> torch.Tensor:
        """Return the loss summed over the trained tokens, a scalar in nats.

        The output head, which dominates small models, runs only at the positions before trained tokens (`logits_to_keep`,
        transformers ≥ 5.20).

        Args:
            model: The model, as the trainer wraps it.
            batch: `input_ids` (B, T), `labels` (B, T) with -100 where a token is not trained, and `attention_mask` (padded) or
                `position_ids` (packed), (B, T).
            smoothing: Label smoothing.
        """
        labels = batch["labels"]  # (B, T)
        keep = trained_positions(labels)  # (B, T)
        targets = labels[:, 1:][keep[:, :-1]]  # (N,)
        keep = functional.pad(keep, (self.virtual_tokens, 0))  # (B, virtual tokens + T): peft prepends them
        fused = self.fused and _is_plain_linear(self.head)  # FSDP shards the head after the check in __init__
        with ExitStack() as stack:
            if self.last_layer is not None:
                stack.enter_context(mlp_at(self.last_layer, keep))
            if fused:
                stack.enter_context(forward_replaced(self.head, lambda hidden: hidden))
            output = model(**model_inputs(batch), logits_to_keep=keep, use_cache=False).logits  # (…, N, H or V)
        output = output.reshape(-1, output.shape[-1])
        if not fused:
            return functional.cross_entropy(output.float(), targets, reduction="sum", label_smoothing=smoothing)
        return linear_cross_entropy(output, self.head.weight, targets, smoothing, self.dtype)

    def _head_is_last(self, model: Any) -> bool:
        """Return True if the model returns the output of its head unchanged; some cap or scale it."""
        probe = torch.linspace(-100, 100, self.head.weight.shape[0], device=self.head.weight.device)  # (V,)
        with (
            evaluation_mode(model),
            forward_replaced(self.head, lambda hidden: probe.to(hidden.dtype).expand(*hidden.shape[:-1], -1)),
        ):
            logits = model(input_ids=self._probe_ids(), use_cache=False).logits  # (1, T, V)
        return bool((logits == probe.to(logits.dtype)).all())

    def _probe_ids(self) -> torch.Tensor:
        """Return a row (1, T) of tokens that the model has."""
        return torch.arange(10, 26, device=self.head.weight.device)[None] % self.head.weight.shape[0]

    def _last_layer(self, base: Any) -> Any:
        """Return the last decoder layer if no logits need its MLP at other positions; None otherwise."""
        layers = decoder_of(base)[2]
        if layers is None or not hasattr(layers[-1], "mlp"):
            return None
        ids = self._probe_ids()
        keep = torch.arange(ids.shape[1], device=ids.device)[None] % 4 == 1  # (1, T)
        with evaluation_mode(base):
            expected = base(input_ids=ids, use_cache=False).logits[keep].float()  # (N, V)
            with mlp_at(layers[-1], keep, elsewhere=100.0):
                logits = base(input_ids=ids, use_cache=False).logits[keep].float()
        return layers[-1] if are_equal(logits, expected) else None


def model_inputs(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the tensors of `batch` that are arguments of a model."""
    return {name: batch[name] for name in ("input_ids", "attention_mask", "position_ids") if name in batch}


def trained_positions(labels: torch.Tensor) -> torch.Tensor:
    """Return the mask (B, T) of the positions whose next token is trained.

    Args:
        labels: (B, T), the token where it is trained and -100 elsewhere.
    """
    keep = torch.zeros_like(labels, dtype=torch.bool)  # (B, T)
    keep[:, :-1] = labels[:, 1:] != IGNORED
    return keep


def _is_plain_linear(head: Any) -> bool:
    """Return True if the head is one whole matrix: no adapter, no 4-bit weight, no bias, no shard."""
    return type(head) is torch.nn.Linear and head.bias is None and type(head.weight) is torch.nn.Parameter
