"""Trainer callbacks: progress events, threads for free cores, a clean stop on a signal, and checkpoints with their evaluation."""

from __future__ import annotations

import signal
import time
from types import FrameType
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from phi_runtime.core.events import Emit, Event
from phi_runtime.hardware.busy_cores import AdaptedThreads
from phi_runtime.training.process_group import any_process
from phi_runtime.training.resources import ResourceMonitor


class ProgressEvents(TrainerCallback):
    """Emits a `progress` event after each step, and a `metric` event for each entry of the log.

    Attributes:
        wall_s: Seconds from the start of training to the last step.
    """

    def __init__(self, stage: str, emit: Emit, tokens_per_epoch: int, resources: ResourceMonitor) -> None:
        self.stage, self.emit, self.tokens_per_epoch, self.resources = stage, emit, tokens_per_epoch, resources
        self.latest: dict[str, Any] = {}
        self.started, self.first_step, self.first_epoch, self.wall_s = 0.0, 0, 0.0, 0.0

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.started, self.first_step, self.first_epoch = time.monotonic(), state.global_step, state.epoch or 0.0

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.wall_s = wall_s = time.monotonic() - self.started
        steps = state.global_step - self.first_step
        figures = {
            "tokens_per_s": round(((state.epoch or 0.0) - self.first_epoch) * self.tokens_per_epoch / wall_s, 1),
            "remaining_s": round(wall_s / max(steps, 1) * (state.max_steps - state.global_step), 1),
            **self.resources.latest(),
        }
        done = {"done": state.global_step, "total": state.max_steps, "unit": "steps"}
        self.emit(Event("progress", self.stage, {**done, **figures, **self.latest}))

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        logs = logs or {}
        names: dict[str, str] = {name: name for name in ("loss", "learning_rate", "grad_norm", "skipped_steps")}
        names |= {name: f"validation_{name.removeprefix('eval_')}" for name in logs if name.startswith("eval_")}
        figures = {names[name]: float(value) for name, value in logs.items() if name in names}
        if figures:
            self.latest |= {name: value for name, value in figures.items() if name != "grad_norm"}
            if "validation_loss" in figures:
                self.latest["validation_step"] = state.global_step
            self.emit(Event("metric", self.stage, {"step": state.global_step, "epoch": state.epoch, **figures}))


class AdaptThreads(TrainerCallback):
    """Computes each step with as many threads as other programs leave cores."""

    def __init__(self, threads: AdaptedThreads) -> None:
        self.threads = threads

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.threads.adapt()

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.threads.close()


class StopOnSignal(TrainerCallback):
    """Stops training on a signal: the first finishes the step and saves it, a SIGINT after it stops at once.

    A second SIGTERM is ignored: cluster managers send several.

    Attributes:
        caught: Number of the signal that stops the run; 0 if none.
    """

    def __init__(self) -> None:
        self.caught = 0

    def on_signal(self, number: int, _: FrameType | None) -> None:
        if not self.caught:
            self.caught = number
        elif number == signal.SIGINT:
            raise KeyboardInterrupt

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        if any_process(bool(self.caught)):  # all processes must stop after the same step
            self.caught = self.caught or signal.SIGINT
            control.should_save = control.should_training_stop = True
        return control

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        if self.caught and not _epoch_complete(state):  # Trainer ends the epoch early, and would evaluate
            control.should_evaluate = False
        return control


class SaveAfterEvaluation(TrainerCallback):
    """Defers the checkpoint of an epoch's last step until the evaluation that ends the epoch is in the log.

    A run that resumes from it would otherwise miss that evaluation. Add it after the callbacks that request checkpoints.
    """

    def __init__(self) -> None:
        self.deferred = False

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        self.deferred = control.should_save and args.eval_strategy == "epoch" and _epoch_complete(state)
        control.should_save = control.should_save and not self.deferred
        return control

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        control.should_save = control.should_save or self.deferred
        self.deferred = False
        return control


def _epoch_complete(state: TrainerState) -> bool:
    return float(state.epoch or 0).is_integer()
