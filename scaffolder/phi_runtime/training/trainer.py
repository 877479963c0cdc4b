"""Fine-tuning on transformers' Trainer: token-weighted loss, splitting on out-of-memory, finite gradients only.

The overrides, in the order in which Trainer 5.23 calls them:

    create_accelerator_and_postprocess      shard with FSDP on CPUs as well
    _get_train_sampler, _get_eval_sampler   group rows of similar length; the same number of batches for each process
    _get_dataloader                         serve the blank rows that these samplers add
    optimizer step
        get_batch_samples                   remember the micro-batches of the step
        training_step                       each micro-batch: forward and backward, in smaller parts if memory runs out
        compute_loss                        loss of the trained tokens, divided by their number in the whole step
        _get_grad_norm                      drop the step if its gradient is not finite
    log                                     mean loss of the steps that were not dropped
    evaluate                                validation loss per trained token, metrics of the answers
    _determine_best_metric                  request a checkpoint of a new best state; stop early
    _save_checkpoint                        write completely, then rename; keep the best

The overrides with an underscore are private in transformers, as are `_prepare_inputs`, `_load_best_model` and `_tr_loss`, which
are used here. A minor release may change them, hence the upper bound in pyproject.toml.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size
from transformers import Trainer, TrainerControl

from phi_runtime.core.errors import OutOfResources, WorkFailed
from phi_runtime.training import checkpoints
from phi_runtime.training.batches import LengthGroupedSampler, split_batch
from phi_runtime.training.extras import Batch, TrainingExtras
from phi_runtime.training.loss import TokenLoss, model_inputs, trained_positions
from phi_runtime.training.process_group import (
    all_reduce_sum,
    broadcast_from_main,
    is_main_process,
    shard_on_cpu,
    world_size,
)
from phi_runtime.training.rank_sampler import BLANK, BlankPaddedDataset, RankSampler

# Steps in a row with a non-finite gradient before the run fails. Fewer can be chance; fp16 needs some to find its loss scale.
MAX_SKIPPED_STEPS = 3
_MAX_SKIPPED_STEPS_FP16 = 20


class SelectiveTrainer(Trainer):
    """Trainer that computes logits only where a token is trained, and weighs every trained token alike.

    Attributes:
        batch_parts: Number of parts that a batch is split into, doubled each time that memory runs out.
        skipped_steps: Optimizer steps that were dropped because their gradient was not finite.
    """

    control: TrainerControl

    def __init__(self, *, extras: TrainingExtras | None = None, **arguments: Any) -> None:
        self._checkpoint_facts = {"processes": world_size(), "threads": torch.get_num_threads()}
        super().__init__(**arguments)
        self.extras = extras or TrainingExtras()
        self.model_accepts_loss_kwargs = True  # compute_loss divides by the trained tokens of the whole step
        dtype = torch.bfloat16 if self.args.bf16 else torch.float16 if self.args.fp16 else torch.float32
        self.token_loss = TokenLoss(self.model, dtype, self.extras.virtual_tokens)
        self.batch_parts = 1
        self.skipped_steps = self._skipped_in_a_row = 0
        self._steps_since_log = self._skipped_since_log = 0
        self._micro_batches: list[Batch] = []  # of the current optimizer step …
        self._micro_batches_done = 0  # … and how many of them have left their gradient
        self._step_loss: Any = 0.0

    def restore(self, facts: Mapping[str, Any]) -> None:
        """Take over what an earlier run recorded in the checkpoint that this one resumes from."""
        self.batch_parts, self.skipped_steps = facts.get("parts", 1), facts.get("skipped", 0)

    def create_accelerator_and_postprocess(self) -> None:
        super().create_accelerator_and_postprocess()
        shard_on_cpu(self)

    # -- data loaders -------------------------------------------------------------------------------------------------

    def _get_train_sampler(self, train_dataset: Any = None) -> torch.utils.data.Sampler[int]:
        lengths = (self.train_dataset if train_dataset is None else train_dataset).lengths.tolist()
        batch_size = self.extras.batch_size or self.args.train_batch_size
        order = LengthGroupedSampler(lengths, batch_size, self.args.data_seed or 0)
        return self._for_all_ranks(order, self.args.train_batch_size)

    def _get_eval_sampler(self, eval_dataset: Any) -> torch.utils.data.Sampler[int]:
        return self._for_all_ranks(torch.utils.data.SequentialSampler(eval_dataset), self.args.eval_batch_size)

    def _for_all_ranks(self, order: torch.utils.data.Sampler[int], batch_size: int) -> torch.utils.data.Sampler[int]:
        return order if world_size() == 1 else RankSampler(order, batch_size, world_size())

    def _get_dataloader(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
        dataset = dataset if world_size() == 1 else BlankPaddedDataset(dataset)
        return super()._get_dataloader(dataset, *args, **kwargs)

    # -- optimizer step: micro-batches --------------------------------------------------------------------------------

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: Any) -> tuple[list[Any], Any]:
        self._micro_batches_done, self._step_loss = 0, 0.0
        if self.state.global_step >= self.state.max_steps:
            # The checkpoint that was resumed from is that of the last step; Trainer would do one more (transformers 5.23).
            self._micro_batches, trained_tokens = [], None
        else:
            self._micro_batches, trained_tokens = super().get_batch_samples(epoch_iterator, num_batches, device)
        return self._micro_batches, trained_tokens

    def training_step(self, model: Any, inputs: Batch, num_items_in_batch: Any = None) -> torch.Tensor:
        if self.extras.int4_base:
            self.extras.int4_base.use_rounded(self.state.global_step % 2 == 1)
        self._micro_batches_done += 1
        loss = self._forward_backward([inputs], model, num_items_in_batch)
        if loss is None:
            loss = self._retry_in_parts(model, num_items_in_batch)
        finite_loss = torch.where(torch.isfinite(loss), loss, 0)  # a single NaN would spoil the logged sum for good
        self._step_loss = self._step_loss + finite_loss
        return finite_loss

    def _forward_backward(self, batches: Sequence[Batch], model: Any, trained_tokens: Any) -> torch.Tensor | None:
        """Accumulate the gradients of `batches` and return the loss of the last; None if memory runs out."""
        try:
            for batch in batches:
                loss = torch.zeros((), device=self.args.device)
                for part in split_batch(batch, self.batch_parts):
                    loss += super().training_step(model, part, trained_tokens)
        except (RuntimeError, MemoryError) as e:
            if not isinstance(e, MemoryError) and not should_reduce_batch_size(e):
                raise
            return None  # retry outside of the handler: the exception holds the tensors of all its frames
        return loss

    def _retry_in_parts(self, model: Any, trained_tokens: Any) -> torch.Tensor:
        """Repeat the micro-batches of the step so far, in smaller and smaller parts.

        Raises:
            OutOfResources: Splitting is not allowed, or a single row does not fit.
        """
        batches = self._micro_batches[: self._micro_batches_done]
        size = self.args.per_device_train_batch_size
        if not self.extras.split_on_oom or world_size() > 1:
            raise OutOfResources(
                f"a batch of {size} rows does not fit into memory",
                fix=f"set training_args.per_device_train_batch_size to {max(1, size // 2)} and double "
                "gradient_accumulation_steps (same updates), set auto_find_batch_size to split batches automatically, or "
                "lower max_seq_len",
            )
        loss = None
        while loss is None:
            self.batch_parts *= 2
            if self.batch_parts // 2 >= size:
                raise OutOfResources(
                    "a single row does not fit into memory",
                    fix="lower max_seq_len, set training_args.gradient_checkpointing, or train with a QLoRA pass",
                )
            model.zero_grad()
            clear_device_cache(garbage_collection=True)
            rows = max(1, size // self.batch_parts)
            self.extras.warn(
                f"out of memory: computing {rows} of the {size} rows of a batch at a time from here on; the updates are the "
                f"same (as with per_device_train_batch_size {rows} and {self.batch_parts} times the "
                "gradient_accumulation_steps)"
            )
            loss = self._forward_backward(batches, model, trained_tokens)
        return loss

    # -- optimizer step: loss -----------------------------------------------------------------------------------------

    def compute_loss(
        self, model: Any, inputs: Batch, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Return the cross-entropy of the trained tokens, or the user's loss weighted by their number.

        Args:
            inputs: A batch as `Layout.collate` builds it; `labels` is (B, T).
            num_items_in_batch: Trained tokens of the whole optimizer step, over all its micro-batches and processes, so that
                accumulation does not change the loss. None: the mean over this batch.
        """
        if self.extras.loss:
            output = model(**model_inputs(inputs), output_hidden_states=True, use_cache=False)
            trained = trained_positions(inputs["labels"]).sum()
            # A batch of blank rows trains nothing, and the mean of nothing is NaN; every rank must still run backward.
            total = self.extras.loss(output, inputs) * trained if trained else output.logits.sum() * 0
        else:
            smoothing = self.args.label_smoothing_factor if self.model.training else 0.0
            cache = self.extras.activations
            with cache.supplied(inputs) if cache else nullcontext():
                total = self.token_loss.total(model, inputs, smoothing)
        if num_items_in_batch is None:
            loss = total / trained_positions(inputs["labels"]).sum().clamp(min=1)
        else:
            loss = (
                total / num_items_in_batch * world_size()
            )  # DDP averages the gradients of its ranks; they are to be summed
        return (loss, None) if return_outputs else loss

    # -- optimizer step: gradient -------------------------------------------------------------------------------------

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        """Return the gradient norm; drop the step if it is not finite, since an optimizer without gradients does nothing.

        Raises:
            WorkFailed: Too many steps in a row were dropped.
        """
        norm = super()._get_grad_norm(model, grad_norm)
        self._steps_since_log += 1
        if math.isfinite(float(norm)):
            self._skipped_in_a_row = 0
            return norm
        self.skipped_steps += 1
        self._skipped_in_a_row += 1
        self._skipped_since_log += 1
        self._tr_loss -= self._step_loss  # Trainer's running sum for the log; private (transformers 5.23)
        step, scaler = self.state.global_step + 1, self.accelerator.scaler
        if self._skipped_in_a_row >= (_MAX_SKIPPED_STEPS_FP16 if scaler else MAX_SKIPPED_STEPS):
            rows = [int(i) for batch in self._micro_batches for i in batch.get("index", ()) if i != BLANK]
            raise WorkFailed(
                f"the gradient was not finite in {self._skipped_in_a_row} steps in a row; the last is step {step}, trained on "
                f"{self.extras.describe_rows(rows)}",
                fix="lower training_args.learning_rate and check these rows; `phi-scaffold run` resumes from the last checkpoint",
            )
        if not scaler:  # fp16's scaler skips the step itself, and reads the gradients to do so
            model.zero_grad()
        self.extras.warn(f"skipped step {step}: gradient is not finite")
        return norm

    # -- log ----------------------------------------------------------------------------------------------------------

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log the mean loss of the steps that were not skipped, and drop values that are not finite."""
        if "loss" in logs:
            counted = self._steps_since_log - self._skipped_since_log
            logs["loss"] = logs["loss"] * self._steps_since_log / counted if counted else math.nan
            self._steps_since_log = self._skipped_since_log = 0
            if self.skipped_steps:
                logs["skipped_steps"] = self.skipped_steps
        super().log({name: value for name, value in logs.items() if math.isfinite(value)}, start_time)

    # -- evaluation ---------------------------------------------------------------------------------------------------

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: Any = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Return the validation loss in nats per trained token, and the metrics of the generated answers.

        The loss is averaged over all trained tokens of the set; Trainer's own averages the means of its batches.
        """
        self.model.eval()
        if self.extras.int4_base:
            self.extras.int4_base.use_rounded(False)
        sums = torch.zeros(2, dtype=torch.float64)  # (2,): loss, trained tokens
        for batch in self.get_eval_dataloader(eval_dataset):
            batch = self._prepare_inputs(batch)
            with torch.no_grad(), self.compute_loss_context_manager():
                trained = int(trained_positions(batch["labels"]).sum())
                sums += torch.tensor([float(self.compute_loss(self.model, batch)) * trained, trained])
        loss, tokens = all_reduce_sum(sums.to(self.args.device)).tolist()
        metrics = {f"{metric_key_prefix}_loss": loss / max(tokens, 1)}
        if self.extras.score_answers:
            with self.accelerator.autocast():
                scores = self.extras.score_answers(self.accelerator.unwrap_model(self.model))
            metrics |= {f"{metric_key_prefix}_{name}": value for name, value in scores.items()}
        metrics = broadcast_from_main(metrics)  # all processes must agree on when to stop
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        selection, log = self.extras.selection, self.state.log_history
        if selection.patience_exhausted(log):
            self.control.should_training_stop = self.control.should_save = True
        if selection.keep_best and selection.best_step(log) == self.state.global_step:
            self.control.should_save = True
            return True
        return False

    # -- checkpoint ---------------------------------------------------------------------------------------------------

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        # Trainer writes into the final folder and rotates by itself (transformers#35525): point it at a staging folder.
        root = Path(self.args.output_dir)
        facts = {**self._checkpoint_facts, "parts": self.batch_parts, "skipped": self.skipped_steps}
        with checkpoints.staged(root, self.state.global_step, facts) as staging_dir:
            self.args.output_dir = str(staging_dir)
            try:
                super()._save_checkpoint(model, trial)
            finally:
                self.args.output_dir = str(root)
        if is_main_process():
            checkpoints.rotate(root, self.args.save_total_limit or 1, self._best_step())

    def load_best_weights(self) -> int | None:
        """Load the weights of the best state and return its step; None if the last state is the one to keep."""
        step = self._best_step()
        if step is not None and step != self.state.global_step:
            self.state.best_model_checkpoint = str(checkpoints.checkpoint_folder(Path(self.args.output_dir), step))
            self._load_best_model()
        return step

    def _best_step(self) -> int | None:
        selection = self.extras.selection
        return selection.best_step(self.state.log_history) if selection.keep_best else None
