"""A custom loss: SimCTG's contrastive loss (Su et al. 2022, https://arxiv.org/abs/2202.06417) in addition to the cross-entropy.

Copy it to fine-tuning/hooks.py. Models that repeat themselves have hidden states that are all alike. This loss keeps those of
different tokens apart by a margin, so that what is said next depends more on what was said before.
"""

from typing import Any

import torch
from torch.nn import functional

MARGIN = 0.5  # how far the cosine similarity of two different tokens should stay below 1
WEIGHT = 1.0


def loss(model_output: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """The mean over the batch; phi-scaffold weighs batches by their trained tokens.

    `model_output` has `logits` (B, T, V) and `hidden_states`, one (B, T, H) for each layer; `batch` has `input_ids` and `labels`
    (B, T), -100 where a token is not trained, and `attention_mask` (B, T), or `position_ids` where rows are packed.
    """
    labels = batch["labels"]
    cross_entropy = functional.cross_entropy(
        model_output.logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten(), ignore_index=-100
    )

    states = functional.normalize(model_output.hidden_states[-1].float(), dim=-1)  # (B, T, H)
    alike = states @ states.transpose(1, 2)  # (B, T, T)
    read = batch["attention_mask"].bool() if "attention_mask" in batch else torch.ones_like(labels, dtype=torch.bool)
    pairs = read[:, :, None] & read[:, None, :]
    pairs &= ~torch.eye(labels.shape[1], dtype=torch.bool, device=labels.device)
    contrast = functional.relu(alike - (1 - MARGIN))[pairs].mean()

    return cross_entropy + WEIGHT * contrast
