"""transformers' Trainer with our loss, our order of rows, our checkpoints, and a watch on what goes wrong."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size
from transformers import Trainer, TrainerControl

from phi_runtime.core.errors import OutOfResources, WorkFailed
from phi_runtime.training import checkpoints
from phi_runtime.training.batches import LengthSampler, split_batch
from phi_runtime.training.best import Best
from phi_runtime.training.loss import Loss, trained_positions
from phi_runtime.training.processes import is_first, of_first, processes, shard_on_cpu, summed
from phi_runtime.training.rank_sampler import BLANK, Dealt, WithBlanks
from phi_runtime.training.rounding import AlternatingBase

Batch = dict[str, torch.Tensor]

MOST_SKIPPED = 3  # steps in a row whose gradient is not finite; fewer can be chance, as in the search for fp16's scale
_MOST_SKIPPED_FP16 = 20


@dataclass(frozen=True)
class Ways:
    """What a run does beside training on the model's own loss.

    - `loss(output, batch)`: the user's, a mean over the batch
    - `answer(model)`: metrics of the answers that the model gives to validation questions
    - `halve`: split batches that do not fit into memory, instead of giving up
    - `base`: the weights that alternate with rounded ones
    - `say`: tells the user something; `rows`: where sequences, by number, come from
    - `facts`: what a checkpoint was made with
    - `batch`: the rows of a batch as the config has them, of which each of several processes may compute a part
    """

    loss: Callable[[Any, Batch], torch.Tensor] | None = None
    answer: Callable[[Any], dict[str, float]] | None = None
    best: Best = field(default_factory=Best)
    virtual_tokens: int = 0
    halve: bool = False
    base: AlternatingBase | None = None
    say: Callable[[str], None] = lambda _: None
    rows: Callable[[Sequence[int]], str] = lambda indices: ", ".join(map(str, indices))
    facts: dict[str, Any] = field(default_factory=dict)
    batch: int | None = None


class SelectiveTrainer(Trainer):
    """Computes logits only where a token is trained, and weighs every trained token alike.

    `parts` is into how many pieces a batch is split since memory ran out, `skipped` the number of steps that were left out.
    """

    control: TrainerControl

    def __init__(self, *, ways: Ways | None = None, **given: Any) -> None:
        super().__init__(**given)
        self.ways = ways or Ways()
        self.model_accepts_loss_kwargs = True  # our loss divides by the trained tokens of the whole step
        dtype = torch.bfloat16 if self.args.bf16 else torch.float16 if self.args.fp16 else torch.float32
        self.token_loss = Loss(self.model, dtype, self.ways.virtual_tokens)
        self.parts = 1
        self.skipped = self._skipped_in_a_row = 0
        self._batches: list[Batch] = []  # of the step that is at work
        self._at = 0  # how many of them are done
        self._step_loss: Any = 0.0
        self._since_log, self._skipped_since_log = 0, 0

    def create_accelerator_and_postprocess(self) -> None:
        super().create_accelerator_and_postprocess()
        shard_on_cpu(self)

    # -- the loss -----------------------------------------------------------------------------------------------------------

    def compute_loss(
        self, model: Any, inputs: Batch, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Cross-entropy of the trained tokens, or the user's own loss, weighed by them.

        `num_items_in_batch` is the number of trained tokens in the whole optimizer step, over all its batches and processes, so
        that accumulation does not change the loss.
        """
        trained = trained_positions(inputs["labels"]).sum()
        if self.ways.loss:
            read = {name: inputs[name] for name in ("input_ids", "attention_mask", "position_ids") if name in inputs}
            output = model(**read, output_hidden_states=True, use_cache=False)
            # Rows that fill up the turn of a process train nothing, of which a mean is no number.
            total = self.ways.loss(output, inputs) * trained if trained else output.logits.sum() * 0
        else:
            smoothing = self.args.label_smoothing_factor if self.model.training else 0.0
            total = self.token_loss.total(model, inputs, smoothing)
        loss = total / (trained.clamp(min=1) if num_items_in_batch is None else num_items_in_batch)
        if num_items_in_batch is not None:
            loss = loss * processes()  # whose gradients are averaged
        return (loss, None) if return_outputs else loss

    # -- a step -----------------------------------------------------------------------------------------------------------------

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: Any) -> tuple[list[Any], Any]:
        self._at, self._step_loss = 0, 0.0
        if self.state.global_step >= self.state.max_steps:
            # It had done all steps when it saved what it goes on from, and Trainer would do one more (transformers 5.23).
            self._batches, items = [], None
        else:
            self._batches, items = super().get_batch_samples(epoch_iterator, num_batches, device)
        return self._batches, items

    def training_step(self, model: Any, inputs: Batch, num_items_in_batch: Any = None) -> torch.Tensor:
        if self.ways.base:
            self.ways.base.see(rounded=self.state.global_step % 2 == 1)
        self._at += 1
        loss = self._tried([inputs], model, num_items_in_batch)
        if loss is None:
            loss = self._in_less_memory(model, num_items_in_batch)
        finite = torch.where(torch.isfinite(loss), loss, 0)  # what is not would spoil the log for good
        self._step_loss = self._step_loss + finite
        return finite

    def _tried(self, batches: Sequence[Batch], model: Any, items: Any) -> torch.Tensor | None:
        """The loss of the last of `batches`, all of which leave their gradient; None when memory runs out."""
        try:
            for batch in batches:
                loss = torch.zeros((), device=self.args.device)
                for piece in split_batch(batch, self.parts):
                    loss += super().training_step(model, piece, items)
        except (RuntimeError, MemoryError) as e:
            if not isinstance(e, MemoryError) and not should_reduce_batch_size(e):
                raise
            return None  # outside of the handler, which holds the tensors of all its frames
        return loss

    def _in_less_memory(self, model: Any, items: Any) -> torch.Tensor:
        """Does the batches of the step so far again, in smaller and smaller pieces. Raises OutOfResources when that does not help."""
        batches = self._batches[: self._at]
        size = self.args.per_device_train_batch_size
        if not self.ways.halve or processes() > 1:
            raise OutOfResources(
                f"a batch of {size} rows does not fit into memory",
                fix=f"set training_args.per_device_train_batch_size to {max(1, size // 2)} and double "
                "gradient_accumulation_steps, which trains the same, or set auto_find_batch_size to let the run do it; or shorten "
                "max_seq_len",
            )
        loss = None
        while loss is None:
            self.parts *= 2
            if self.parts // 2 >= size:
                raise OutOfResources(
                    "a single row does not fit into memory",
                    fix="shorten max_seq_len, set training_args.gradient_checkpointing, or train with QLoRA",
                )
            model.zero_grad()
            clear_device_cache(garbage_collection=True)
            now = max(1, size // self.parts)
            self.ways.say(
                f"out of memory: from now on {now} of the {size} rows of a batch are computed at a time; the result is the same "
                f"(as per_device_train_batch_size {now} with {self.parts} times the gradient_accumulation_steps)"
            )
            loss = self._tried(batches, model, items)
        return loss

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        """Leaves out the step whose gradient is not finite: without gradients the optimizer does nothing."""
        norm = super()._get_grad_norm(model, grad_norm)
        self._since_log += 1
        if math.isfinite(float(norm)):
            self._skipped_in_a_row = 0
            return norm
        self.skipped += 1
        self._skipped_in_a_row += 1
        self._skipped_since_log += 1
        self._tr_loss -= self._step_loss
        rows = [int(i) for batch in self._batches for i in batch.get("index", ()) if i != BLANK]
        scaler = self.accelerator.scaler  # fp16's leaves such steps out itself, and looks at the gradients for it
        if self._skipped_in_a_row >= (_MOST_SKIPPED_FP16 if scaler else MOST_SKIPPED):
            raise WorkFailed(
                f"the gradient was not finite in {self._skipped_in_a_row} steps in a row, the last of which is step "
                f"{self.state.global_step + 1}, on {self.ways.rows(rows)}",
                fix="lower training_args.learning_rate, and look at these rows; `phi-scaffold run` goes on from the last checkpoint",
            )
        if not scaler:
            model.zero_grad()
        self.ways.say(f"step {self.state.global_step + 1} is left out: its gradient is not finite")
        return norm

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Without what is not a number, and with the mean loss of the steps that counted."""
        if "loss" in logs:
            counted = self._since_log - self._skipped_since_log
            logs["loss"] = logs["loss"] * self._since_log / counted if counted else math.nan
            self._since_log = self._skipped_since_log = 0
            if self.skipped:
                logs["skipped_steps"] = self.skipped
        super().log({name: value for name, value in logs.items() if math.isfinite(value)}, start_time)

    # -- evaluations ------------------------------------------------------------------------------------------------------------

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: Any = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """The validation loss, by trained token over the whole set (Trainer's own averages batches), and metrics of the answers."""
        self.model.eval()
        if self.ways.base:
            self.ways.base.see(rounded=False)
        sums = torch.zeros(2, dtype=torch.float64)  # loss, tokens
        for batch in self.get_eval_dataloader(eval_dataset):
            batch = self._prepare_inputs(batch)
            with torch.no_grad(), self.compute_loss_context_manager():
                trained = int(trained_positions(batch["labels"]).sum())
                sums += torch.tensor([float(self.compute_loss(self.model, batch)) * trained, trained])
        loss, tokens = summed(sums.to(self.args.device)).tolist()
        metrics = {f"{metric_key_prefix}_loss": loss / max(tokens, 1)}
        if self.ways.answer:
            with self.accelerator.autocast():
                found = self.ways.answer(self.accelerator.unwrap_model(self.model))
            metrics |= {f"{metric_key_prefix}_{name}": value for name, value in found.items()}
        metrics = of_first(metrics)
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        best, log = self.ways.best, self.state.log_history
        if best.exhausted(log):
            self.control.should_training_stop = self.control.should_save = True
        if best.keep and best.step(log) == self.state.global_step:
            self.control.should_save = True
            return True
        return False

    def load_best(self) -> int | None:
        """Puts the weights of the best state into the model; returns its step, None where the last is to be kept."""
        step = self.ways.best.step(self.state.log_history) if self.ways.best.keep else None
        if step is None:
            return None
        if step != self.state.global_step:
            self.state.best_model_checkpoint = str(checkpoints.folder_of(Path(self.args.output_dir), step))
            self._load_best_model()
        return step

    # -- rows and checkpoints ----------------------------------------------------------------------------------------------------

    def _get_train_sampler(self, train_dataset: Any = None) -> torch.utils.data.Sampler[int]:
        lengths = (self.train_dataset if train_dataset is None else train_dataset).lengths.tolist()
        order = LengthSampler(lengths, self.ways.batch or self.args.train_batch_size, self.args.data_seed or 0)
        return self._dealt(order, self.args.train_batch_size)

    def _get_eval_sampler(self, eval_dataset: Any) -> torch.utils.data.Sampler[int]:
        return self._dealt(torch.utils.data.SequentialSampler(eval_dataset), self.args.eval_batch_size)

    def _dealt(self, order: torch.utils.data.Sampler[int], size: int) -> torch.utils.data.Sampler[int]:
        return order if processes() == 1 else Dealt(order, size, processes())

    def _get_dataloader(self, dataset: Any, *given: Any, **more: Any) -> Any:
        return super()._get_dataloader(dataset if processes() == 1 else WithBlanks(dataset), *given, **more)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        # Trainer writes into the final folder and rotates on its own (transformers#35525): let it write aside instead.
        root = Path(self.args.output_dir)
        facts = {**self.ways.facts, "parts": self.parts, "skipped": self.skipped}
        with checkpoints.staged(root, self.state.global_step, facts) as aside:
            self.args.output_dir = str(aside)
            try:
                super()._save_checkpoint(model, trial)
            finally:
                self.args.output_dir = str(root)
        kept = self.ways.best.step(self.state.log_history) if self.ways.best.keep else None
        if is_first():
            checkpoints.rotate(root, self.args.save_total_limit or 1, kept)
