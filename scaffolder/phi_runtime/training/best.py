"""Which of a run's states is the best, and when it is no use to go on: read off the log, so that a resumed run decides the same."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from phi_runtime.config.schema import FinetunePass

VALIDATION_LOSS = "eval_loss"


@dataclass(frozen=True)
class Best:
    """What is measured at an evaluation to tell a good state from a bad one. `patience` is the number of evaluations in a row
    without progress of more than `threshold` after which training stops; `keep` says whether the best state is what is saved."""

    metric: str = VALIDATION_LOSS
    greater_is_better: bool = False
    patience: int | None = None
    threshold: float = 0.0
    keep: bool = False

    @classmethod
    def of(cls, config: FinetunePass) -> Best:
        """As a pass says. The best state is kept where it is asked for, and where training stops early."""
        given = config.training_args
        name = given.metric_for_best_model or "loss"
        metric = name if name.startswith("eval_") else f"eval_{name}"
        greater = given.greater_is_better
        return cls(
            metric,
            not metric.endswith("loss") if greater is None else greater,
            config.early_stopping_patience,
            config.early_stopping_threshold,
            given.load_best_model_at_end or given.save_strategy == "best" or config.early_stopping_patience is not None,
        )

    def _measured(self, log: Sequence[Mapping[str, Any]]) -> list[tuple[int, float]]:
        """Step and value of each evaluation; larger is better, whatever the metric."""
        sign = 1 if self.greater_is_better else -1
        values = [(int(e["step"]), sign * float(e[self.metric])) for e in log if self.metric in e]
        return [(step, -math.inf if math.isnan(value) else value) for step, value in values]

    def step(self, log: Sequence[Mapping[str, Any]]) -> int | None:
        """The step after which it was best, the earliest of equals; None while nothing was measured."""
        measured = self._measured(log)
        return max(measured, key=lambda each: each[1])[0] if measured else None

    def exhausted(self, log: Sequence[Mapping[str, Any]]) -> bool:
        """Whether the last `patience` evaluations brought no progress."""
        if self.patience is None:
            return False
        reached, waited = -math.inf, 0
        for _, value in self._measured(log):
            progress = value > reached + self.threshold
            reached, waited = (value, 0) if progress else (reached, waited + 1)
        return waited >= self.patience
