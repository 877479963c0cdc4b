"""The loss of accuracy of a candidate, from the rows on which it and the full-precision model were measured."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from phi_runtime.evaluation.intervals import Interval
from phi_runtime.evaluation.row_results import RowResult
from phi_runtime.evaluation.summary import compare_rows

_DIGITS = 4
_FEW_ROWS = 6  # fewer show nothing


def accuracy_drop(task: str, source: Sequence[RowResult], candidate: Sequence[RowResult]) -> dict[str, Any]:
    """Return by how much the main metric of a candidate is below that of the full-precision model.

    For rows without answers, which have no metric: by which fraction the geometric mean of the token probabilities is lower.

    Args:
        task: Task of the evaluation.
        source: Results of the full-precision model.
        candidate: Results of the candidate on the same rows.

    Returns:
        `accuracy_drop`, negative for a gain, `accuracy_drop_interval` (95 %, paired), and the rows `lost` and `gained`.
    """
    difference = compare_rows(task, source, candidate)
    interval = difference.interval
    if interval is None:  # all rows differ by the same
        interval = Interval(difference.value, difference.value) if len(source) >= _FEW_ROWS else Interval(-1, 1)
    relative = source[0].reference is None

    def drop(value: float) -> float:
        return round(1 - math.exp(value) if relative else -value, _DIGITS) + 0.0  # no negative zero

    return {
        "accuracy_drop": drop(difference.value),
        "accuracy_drop_interval": [drop(interval.high), drop(interval.low)],
        "lost": difference.lost,
        "gained": difference.gained,
    }


def smallest_drop(task: str, source: Sequence[RowResult]) -> float:
    """Return the smallest limit that a model with the same scores on all rows is shown to meet."""
    return float(accuracy_drop(task, source, source)["accuracy_drop_interval"][1])
