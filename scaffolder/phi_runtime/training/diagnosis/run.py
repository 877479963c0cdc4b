"""The log and the facts of a training run, with the levels that several checks need."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from phi_runtime.core.artifacts import read_json_lines
from phi_runtime.training.diagnosis.curve_statistics import curve, level
from phi_runtime.training.diagnosis.problem import Adjustment

LOSS_LOG = "loss_log.jsonl"  # in the folder of a trained model: an entry of the log a line
MIN_STEPS = 20  # optimizer steps below which a curve is only warm-up and chance
MIN_LINES = 18  # log entries below which the training loss has no readable shape
MIN_VALIDATION = 3  # validation losses below which there is no minimum to rise from
LEARNED = 0.05  # nats: below this loss there is nothing left to learn, and its wobble means nothing

RATE = "training_args.learning_rate"


class TrainingRecord:
    """Log and facts of a run; see `diagnose`."""

    def __init__(self, log: Sequence[Mapping[str, Any]], facts: Mapping[str, Any]) -> None:
        self.facts = {name: value for name, value in facts.items() if value is not None}
        self.loss, self.validation, self.norms = (curve(log, n) for n in ("loss", "eval_loss", "grad_norm"))
        last_step = max((p.step for p in (*self.loss, *self.validation)), default=0)
        self.steps = int(self.facts.get("steps", last_step))
        self.long_enough = self.steps >= MIN_STEPS

    @property
    def readable(self) -> bool:
        """True if the training loss is long enough to have a shape."""
        return self.long_enough and len(self.loss) >= MIN_LINES

    @property
    def first(self) -> float:
        """Level of the training loss at the start; its first value if that is well above, as after a fast first fall."""
        first, start = self.loss[0].value, level(self.loss[: max(3, len(self.loss) // 10)])
        return first if first > 1.1 * start else start

    @property
    def last(self) -> float:
        """Level of the training loss at the end."""
        return level(self.loss[-max(3, len(self.loss) // 6) :])

    @property
    def kind(self) -> str:
        return "full" if self.facts.get("type") == "FullFinetune" else "adapter"

    def length_change(self, factor: float) -> Adjustment:
        """Return the change of the length of training by `factor`."""
        max_steps = self.facts.get("max_steps", -1)
        if max_steps > 0:
            steps = max(1, round(max_steps * factor))
            return Adjustment("training_args.max_steps", steps, f"max_steps {max_steps} → {steps}")
        key, epochs = "training_args.num_train_epochs", self.facts.get("num_train_epochs")
        if not epochs:
            return Adjustment(key, None, "fewer num_train_epochs" if factor < 1 else "more num_train_epochs")
        new_epochs = epochs * factor
        if new_epochs >= 1:  # an integer, and not the current one
            new_epochs = math.floor(new_epochs) if factor < 1 else math.ceil(new_epochs)
        return Adjustment(key, float(f"{new_epochs:.2g}"), f"num_train_epochs {epochs:g} → {new_epochs:.2g}")

    def rate_change(self, factor: float) -> Adjustment:
        """Return the change of the learning rate by `factor`."""
        rate = self.facts.get("learning_rate")
        if not rate:
            return Adjustment(RATE, None, "a lower learning_rate" if factor < 1 else "a higher learning_rate")
        return self.rate_set_to(float(f"{rate * factor:.2g}"))

    def rate_set_to(self, rate: float) -> Adjustment:
        """Return the change of the learning rate to `rate`."""
        return Adjustment(RATE, rate, f"learning_rate {rate_text(self.facts['learning_rate'])} → {rate_text(rate)}")


def read_loss_log(folder: Path) -> list[dict[str, Any]]:
    """Return the entries of the log next to a trained model; none if there is no log. A line that was cut off is skipped."""
    return read_json_lines(folder / LOSS_LOG)


def short(value: float) -> str:
    """Format a figure with three digits: 2.31, 0.0123."""
    return f"{value:.3g}"


def rate_text(rate: float) -> str:
    """Format a learning rate as in papers: 2e-4."""
    if not rate:
        return "0"
    digits, _, power = f"{rate:.1e}".partition("e")
    return f"{digits.removesuffix('.0')}e{int(power)}"
