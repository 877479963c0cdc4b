"""What goes on during training: progress to the listener, a clean stop on a signal."""

from __future__ import annotations

import signal
import time
from types import FrameType
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from phi_runtime.core.events import Emit, Event
from phi_runtime.training.processes import any_of
from phi_runtime.training.resources import Resources


class Progress(TrainerCallback):
    """Emits a progress event after each step, and a metric event for each line of the loss log. `wall_s` is how long it trained."""

    resources: Resources | None = None

    def __init__(self, stage: str, emit: Emit, tokens_per_epoch: int) -> None:
        self.stage, self.emit, self.tokens_per_epoch = stage, emit, tokens_per_epoch
        self.last: dict[str, Any] = {}
        self.started, self.first_step, self.first_epoch, self.wall_s = 0.0, 0, 0.0, 0.0

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.started, self.first_step, self.first_epoch = time.monotonic(), state.global_step, state.epoch or 0.0

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.wall_s = wall_s = time.monotonic() - self.started
        steps = state.global_step - self.first_step
        figures = {
            "tokens_per_s": round(((state.epoch or 0.0) - self.first_epoch) * self.tokens_per_epoch / wall_s, 1),
            "remaining_s": round(wall_s / max(steps, 1) * (state.max_steps - state.global_step), 1),
        }
        if self.resources:
            figures |= self.resources.latest()
        done = {"done": state.global_step, "total": state.max_steps, "unit": "steps"}
        self.emit(Event("progress", self.stage, {**done, **figures, **self.last}))

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
        # The validation loss, and what else is measured of the validation rows.
        names |= {name: f"validation_{name.removeprefix('eval_')}" for name in logs if name.startswith("eval_")}
        shown = {names[name]: float(value) for name, value in logs.items() if name in names}
        if shown:
            self.last |= {k: v for k, v in shown.items() if k != "grad_norm"}
            self.emit(Event("metric", self.stage, {"step": state.global_step, "epoch": state.epoch, **shown}))


class StopOnSignal(TrainerCallback):
    """A handler of signals. At the first: finish the step, save it, stop. The second stops at once."""

    def __init__(self) -> None:
        self.caught = 0

    def on_signal(self, number: int, _: FrameType | None) -> None:
        if self.caught:
            raise KeyboardInterrupt
        self.caught = number

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        if any_of(bool(self.caught)):  # all processes stop after the same step
            self.caught = self.caught or signal.SIGINT
            control.should_save = control.should_training_stop = True
        return control

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        if self.caught and not _whole(state):  # the evaluation that ends an epoch is not wanted in its middle
            control.should_evaluate = False
        return control


class SaveWithEvaluation(TrainerCallback):
    """Puts off the checkpoint of an epoch's last step until the evaluation that ends the epoch is in its log: a run that goes on
    from there would lack it. Comes after the callbacks that want checkpoints."""

    def __init__(self) -> None:
        self.due = False

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        self.due = control.should_save and args.eval_strategy == "epoch" and _whole(state)
        control.should_save = control.should_save and not self.due
        return control

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        control.should_save = control.should_save or self.due
        self.due = False
        return control


def _whole(state: TrainerState) -> bool:
    """Whether an epoch is at its end."""
    return float(state.epoch or 0).is_integer()
