"""Metrics over rows, as functions of sums over them, so that rows can be resampled for an interval.

Shapes: N rows, C columns of numbers, L labels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from phi_runtime.evaluation.intervals import Interval, Scores, bootstrap, interval_of
from phi_runtime.evaluation.metrics import corpus_scores, count_fields, labels_of, row_scores

Texts = Sequence[str]
_SEED = 0


@dataclass(frozen=True)
class Statistic:
    """A metric as a function of sums over rows.

    Attributes:
        columns: (N, C) numbers of each row.
        value: Function from (…, C) sums to (…) values.
        scores: (N,) scores, if the metric is their mean.
    """

    columns: np.ndarray
    value: Callable[[np.ndarray], np.ndarray]
    scores: Scores | None = None

    @property
    def observed(self) -> float:
        """Value over all rows."""
        return float(self.value(self.columns.sum(axis=0)))

    def interval(self, groups: Sequence[int] | None) -> Interval | None:
        """Return its interval: of a mean as `interval_of`, else of the bootstrap; None where no row differs from another."""
        if self.scores:
            return interval_of(self.scores, groups, seed=_SEED)
        return bootstrap(self.columns, self.value, groups, seed=_SEED)


def score(task: str, answers: Texts, references: Texts) -> dict[str, float]:
    """Return the metrics of a task over all pairs: the mean of each metric of a row, then those of all rows together.

    Args:
        task: One of `TASKS`.
        answers: At least one answer.
        references: The expected answers, as many as `answers`.

    Raises:
        ValueError: There are not as many references as answers.
    """
    statistics = statistics_of(task, answers, references)
    values = {name: statistic.observed for name, statistic in statistics.items()}
    return values | corpus_scores(task, answers, references)


def statistics_of(task: str, answers: Texts, references: Texts) -> dict[str, Statistic]:
    """Return the metrics of a task that are functions of sums over rows: all but BLEU and chrF."""
    rows = [row_scores(task, *pair) for pair in zip(answers, references, strict=True)]
    statistics = {name: mean_of([row[name] for row in rows]) for name in rows[0]}
    if task == "classification":
        statistics |= _of_labels(answers, references)
    if task == "extraction":
        statistics |= _of_fields(answers, references, statistics["valid_json"])
    return statistics


def mean_of(values: Sequence[float]) -> Statistic:
    """Return the mean of the scores of rows."""
    scores = Scores(values)
    return Statistic(scores.columns, lambda sums: sums[..., 0] / sums[..., 1], scores)


def _of_labels(answers: Texts, references: Texts) -> dict[str, Statistic]:
    """Return the metrics over the L labels that rows expect; an answer that is no label only lowers the recall of its reference.

    A label without a row in a sample does not count there.
    """
    number = {label: i for i, label in enumerate(labels_of(references))}  # numpy drops "\0" at the end of text
    count = len(number)
    expected, predicted = (
        np.array([number.get(text, count) for text in texts])[:, None] == np.arange(count)
        for texts in (references, answers)
    )  # (N, L) each
    columns = np.concatenate([expected & predicted, predicted, expected], axis=1).astype(np.float64)  # (N, 3 L)

    def recalls(sums: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return sums[..., :count] / np.maximum(sums[..., 2 * count :], 1), sums[..., 2 * count :]

    def f1s(sums: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        right, written, rows = sums[..., :count], sums[..., count : 2 * count], sums[..., 2 * count :]
        return 2 * right / np.maximum(written + rows, 1), rows

    def macro(of: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]) -> Callable[[np.ndarray], np.ndarray]:
        def mean(sums: np.ndarray) -> np.ndarray:
            values, rows = of(sums)
            return np.asarray((values * (rows > 0)).sum(axis=-1) / np.maximum((rows > 0).sum(axis=-1), 1))

        return mean

    def weighted(sums: np.ndarray) -> np.ndarray:
        values, rows = f1s(sums)
        return np.asarray((values * rows).sum(axis=-1) / rows.sum(axis=-1))

    values = {"balanced_accuracy": macro(recalls), "macro_f1": macro(f1s), "weighted_f1": weighted}
    return {name: Statistic(columns, value) for name, value in values.items()}


def _of_fields(answers: Texts, references: Texts, valid: Statistic) -> dict[str, Statistic]:
    """Return micro F1, precision and recall over the fields of all objects; if none has a field, `valid`, the share of objects.

    As in slot filling and MUC-4 (https://aclanthology.org/M92-1002).
    """
    columns = np.array(count_fields(answers, references), dtype=np.float64)  # (N, 3): common, written, expected
    if not columns[:, 1:].any():
        return dict.fromkeys(("field_f1", "field_precision", "field_recall"), valid)
    return {
        "field_f1": Statistic(columns, lambda sums: 2 * sums[..., 0] / np.maximum(sums[..., 1] + sums[..., 2], 1)),
        "field_precision": Statistic(columns, lambda sums: sums[..., 0] / np.maximum(sums[..., 1], 1)),
        "field_recall": Statistic(columns, lambda sums: sums[..., 0] / np.maximum(sums[..., 2], 1)),
    }


def sum_of(parts: Sequence[tuple[Statistic | None, float]]) -> Statistic | None:
    """Return the weighted sum of metrics; None if one of them is no function of sums."""
    known = [(part, weight) for part, weight in parts if part is not None]
    if len(known) < len(parts):
        return None
    if len(known) == 1 and known[0][1] == 1:
        return known[0][0]
    ends = np.cumsum([part.columns.shape[1] for part, _ in known])[:-1]

    def value(sums: np.ndarray) -> np.ndarray:
        pieces = np.split(sums, ends, axis=-1)
        return np.asarray(sum(w * part.value(piece) for (part, w), piece in zip(known, pieces, strict=True)))

    return Statistic(np.concatenate([part.columns for part, _ in known], axis=1), value)
