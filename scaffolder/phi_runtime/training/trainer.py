"""transformers' Trainer with our loss, our order of rows and our checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch.nn import functional
from transformers import Trainer, TrainerControl

from phi_runtime.training import checkpoints
from phi_runtime.training.batches import LengthSampler
from phi_runtime.training.rounding import AlternatingBase


class SelectiveTrainer(Trainer):
    """Computes logits only where a token is trained, and weighs every trained token alike."""

    checkpoint_facts: dict[str, Any]
    control: TrainerControl
    base: AlternatingBase | None = None

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        if self.base:
            self.base.see(rounded=self.state.global_step % 2 == 1)
        return super().training_step(model, inputs, num_items_in_batch)

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Cross-entropy of the trained tokens.

        `labels` (B, T) holds the token where it is trained and -100 elsewhere. The vocabulary projection, which dominates small
        models, runs on the positions before those tokens alone (`logits_to_keep`, transformers ≥ 5.20). `num_items_in_batch`
        is the number of trained tokens in the whole optimizer step, so that accumulation does not change the loss. A packed
        batch has `position_ids` and no mask.
        """
        labels = inputs["labels"]
        keep = torch.zeros_like(labels, dtype=torch.bool)  # (B, T)
        keep[:, :-1] = labels[:, 1:] != -100
        read = {name: inputs[name] for name in ("input_ids", "attention_mask", "position_ids") if name in inputs}
        output = model(**read, logits_to_keep=keep, use_cache=False)
        logits = output.logits.float().view(-1, output.logits.shape[-1])  # (trained, V)
        total = functional.cross_entropy(logits, labels[:, 1:][keep[:, :-1]], reduction="sum")
        loss = total / (num_items_in_batch if num_items_in_batch is not None else keep.sum().clamp(min=1))
        return (loss, output) if return_outputs else loss

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: Any = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """The held-out loss, by trained token over the whole set (Trainer's own averages batches)."""
        self.model.eval()
        if self.base:
            self.base.see(rounded=False)
        device, total, count = self.args.device, 0.0, 0
        for batch in self.get_eval_dataloader(eval_dataset):
            batch = {name: tensor.to(device) for name, tensor in batch.items()}
            with torch.no_grad(), self.compute_loss_context_manager():
                trained = int((batch["labels"][:, 1:] != -100).sum())
                total += float(self.compute_loss(self.model, batch)) * trained
                count += trained
        metrics = {f"{metric_key_prefix}_loss": total / max(count, 1)}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _get_train_sampler(self, train_dataset: Any = None) -> torch.utils.data.Sampler[int]:
        lengths = (self.train_dataset if train_dataset is None else train_dataset).lengths.tolist()
        return LengthSampler(lengths, self.args.train_batch_size, self.args.data_seed or 0)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        # Trainer writes into the final folder and rotates on its own (transformers#35525): let it write aside instead.
        root = Path(self.args.output_dir)
        with checkpoints.staged(root, self.state.global_step, self.checkpoint_facts) as aside:
            self.args.output_dir = str(aside)
            try:
                super()._save_checkpoint(model, trial)
            finally:
                self.args.output_dir = str(root)
        checkpoints.rotate(root, self.args.save_total_limit or 1)
