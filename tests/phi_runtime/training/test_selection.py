"""The best state of a run, and early stopping."""

from __future__ import annotations

import math
from typing import Any

import pytest

from phi_runtime.training.selection import ModelSelection


def log(*values: float, metric: str = "eval_loss") -> list[dict[str, Any]]:
    return [{"step": 10 * (i + 1), metric: value} for i, value in enumerate(values)] + [{"step": 99, "loss": 0.0}]


def test_the_best_is_the_earliest_of_equals() -> None:
    assert ModelSelection().best_step(log(0.9, 0.5, 0.5, 0.7)) == 20
    assert (
        ModelSelection("eval_accuracy", greater_is_better=True).best_step(log(0.1, 0.8, 0.3, metric="eval_accuracy"))
        == 20
    )
    assert ModelSelection().best_step([{"step": 5, "loss": 1.0}]) is None


def test_a_metric_that_is_nan_is_never_the_best() -> None:
    assert ModelSelection().best_step(log(math.nan, 0.5, math.nan)) == 20


@pytest.mark.parametrize(
    ("values", "exhausted"),
    [
        ((0.9, 0.8, 0.7), False),
        ((0.9, 0.8, 0.85), False),
        ((0.9, 0.8, 0.85, 0.81), True),
        ((0.9, 0.8, 0.85, 0.7, 0.71), False),
        ((0.9, 0.895, 0.891), True),  # progress below the threshold does not count
        ((0.9, 0.895, 0.88), False),  # small steps add up
    ],
)
def test_patience_counts_measurements_without_progress(values: tuple[float, ...], exhausted: bool) -> None:
    assert ModelSelection(patience=2, threshold=0.01).patience_exhausted(log(*values)) is exhausted
    assert not ModelSelection().patience_exhausted(log(*values))
