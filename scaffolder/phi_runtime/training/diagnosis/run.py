"""What a training run left, with what several of the looks at it need."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from phi_runtime.training.diagnosis.curves import curve, level

MIN_STEPS = 20  # optimizer steps below which nothing is said of a curve: warm-up and chance are all there is
MIN_LINES = 18  # lines of the training loss below which its shape is not read
MIN_VALIDATION = 3  # measurements of the validation loss below which it has no minimum to rise from
LEARNT = 0.05  # nats: a loss below it leaves nothing to learn, and its wobble means nothing


class Run:
    """A log and facts, with what several of the looks need."""

    def __init__(self, log: Sequence[Mapping[str, Any]], facts: Mapping[str, Any]) -> None:
        self.facts = {name: value for name, value in facts.items() if value is not None}
        self.loss, self.validation, self.norms = (curve(log, n) for n in ("loss", "eval_loss", "grad_norm"))
        last = max((p.step for p in (*self.loss, *self.validation)), default=0)
        self.steps = int(self.facts.get("steps", last))
        self.long_enough = self.steps >= MIN_STEPS

    @property
    def readable(self) -> bool:
        """Whether the training loss has a shape that can be read."""
        return self.long_enough and len(self.loss) >= MIN_LINES

    @property
    def first(self) -> float:
        """The level of the training loss at the start; its first line where that lies well above, much being learnt at once."""
        first, start = self.loss[0].value, level(self.loss[: max(3, len(self.loss) // 10)])
        return first if first > 1.1 * start else start

    @property
    def last(self) -> float:
        """The level of the training loss at the end."""
        return level(self.loss[-max(3, len(self.loss) // 6) :])

    @property
    def kind(self) -> str:
        return "full" if self.facts.get("type") == "FullFinetune" else "adapter"

    def length(self, factor: float) -> tuple[str, str]:
        """The setting that says how long is trained, and its change by `factor` in words."""
        max_steps = self.facts.get("max_steps", -1)
        if max_steps > 0:
            return "training_args.max_steps", f"max_steps {max_steps} → {max(1, round(max_steps * factor))}"
        epochs = self.facts.get("num_train_epochs")
        if not epochs:
            return "training_args.num_train_epochs", "fewer num_train_epochs" if factor < 1 else "more num_train_epochs"
        wanted = epochs * factor
        if wanted >= 1:  # whole ones, and another number than before
            wanted = math.floor(wanted) if factor < 1 else math.ceil(wanted)
        return "training_args.num_train_epochs", f"num_train_epochs {epochs:g} → {wanted:.2g}"

    def rate(self, factor: float) -> str:
        """A change of the learning rate in words."""
        rate = self.facts.get("learning_rate")
        if not rate:
            return "a lower learning_rate" if factor < 1 else "a higher learning_rate"
        return f"learning_rate {rate_text(rate)} → {rate_text(rate * factor)}"


def short(value: float) -> str:
    """Three digits: 2.31, 0.0123."""
    return f"{value:.3g}"


def rate_text(rate: float) -> str:
    """A learning rate as people write it: 2e-4."""
    if not rate:
        return "0"
    digits, _, power = f"{rate:.1e}".partition("e")
    return f"{digits.removesuffix('.0')}e{int(power)}"
