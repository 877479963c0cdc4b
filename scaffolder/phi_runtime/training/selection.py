"""Model selection: the best state of a run, and early stopping.

Both are computed from the log alone, so that a resumed run decides as an uninterrupted one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from phi_runtime.config.schema import FinetunePass

VALIDATION_LOSS = "eval_loss"  # as Trainer names it

Log = Sequence[Mapping[str, Any]]
"""Trainer's log_history."""


@dataclass(frozen=True)
class ModelSelection:
    """Criterion by which the states of a run are compared at each evaluation.

    Attributes:
        metric: Name in the log, with Trainer's prefix `eval_`.
        greater_is_better: True for scores, False for losses.
        patience: Evaluations in a row without progress after which training stops; None: never.
        threshold: Smallest improvement that counts as progress.
        keep_best: Save the best state instead of the last.
    """

    metric: str = VALIDATION_LOSS
    greater_is_better: bool = False
    patience: int | None = None
    threshold: float = 0.0
    keep_best: bool = False

    @classmethod
    def from_config(cls, config: FinetunePass) -> ModelSelection:
        """Read the criterion from a pass. Early stopping implies that the best state is kept."""
        settings = config.training_args
        name = settings.metric_for_best_model or "loss"
        metric = name if name.startswith("eval_") else f"eval_{name}"
        greater = settings.greater_is_better
        patience = config.early_stopping_patience
        return cls(
            metric,
            not metric.endswith("loss") if greater is None else greater,
            patience,
            config.early_stopping_threshold,
            settings.load_best_model_at_end or settings.save_strategy == "best" or patience is not None,
        )

    def best_step(self, log: Log) -> int | None:
        """Return the step of the best state, the earliest of equals; None before the first evaluation."""
        scores = self._scores(log)
        return max(scores, key=lambda pair: pair[1])[0] if scores else None

    def patience_exhausted(self, log: Log) -> bool:
        """Return True if the last `patience` evaluations made no progress."""
        if self.patience is None:
            return False
        best, without_progress = -math.inf, 0
        for _, score in self._scores(log):
            progress = score > best + self.threshold
            best, without_progress = (score, 0) if progress else (best, without_progress + 1)
        return without_progress >= self.patience

    def _scores(self, log: Log) -> list[tuple[int, float]]:
        """Return step and score of each evaluation; a larger score is better for every metric, and NaN the worst."""
        sign = 1 if self.greater_is_better else -1
        scores = [(int(entry["step"]), sign * float(entry[self.metric])) for entry in log if self.metric in entry]
        return [(step, -math.inf if math.isnan(score) else score) for step, score in scores]
