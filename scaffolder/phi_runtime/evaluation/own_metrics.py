"""Metrics that a project defines: costs and weighted sums in evaluation.json, and `metrics` in hooks.py."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from phi_runtime.config.confusions import MEAN_COST, Confusion, parse_confusion, unknown_labels
from phi_runtime.config.parse import EVALUATION
from phi_runtime.config.reading.source import KeyPath, read_source
from phi_runtime.config.schema import Evaluation
from phi_runtime.config.sidecars import sidecar_path
from phi_runtime.core.errors import ConfigError, DataError, Location
from phi_runtime.core.suggestions import nearest
from phi_runtime.data.hooks import MetricsHook
from phi_runtime.evaluation.intervals import Interval
from phi_runtime.evaluation.metrics import corpus_scores, headline
from phi_runtime.evaluation.row_results import RowResult, groups_of
from phi_runtime.evaluation.row_statistics import Statistic, mean_of, statistics_of, sum_of

Texts = Sequence[str]
Groups = Sequence[int] | None


class Metric(NamedTuple):
    """A metric of one model; without `statistic`, rows cannot be resampled for it."""

    value: float
    interval: Interval | None = None
    statistic: Statistic | None = None

    @classmethod
    def of_rows(cls, scores: Sequence[float], groups: Groups) -> Metric:
        """Return the mean of the scores of rows."""
        statistic = mean_of(scores)
        return cls(sum(scores) / len(scores), statistic.interval(groups), statistic)


@dataclass(frozen=True)
class OwnMetrics:
    """The metrics that a project defines.

    Attributes:
        settings: Those of the training pass.
        hook: `metrics` of hooks.py.
        config: The config file, next to which both are.
    """

    settings: Evaluation
    hook: MetricsHook | None
    config: Path

    def check(self, references: Texts) -> None:
        """Compute the metrics of right answers, so that an error in them shows before models are measured.

        Raises:
            ConfigError: A combination names a metric that does not exist.
            DataError: hooks.py fails, or returns something other than finite numbers by name.
        """
        if self.hook or self.settings.combined:
            self.of(references, references)

    def check_labels(self, labels: Collection[str]) -> None:
        """Raise ConfigError if `cost` names a label that no row has."""
        for unknown in unknown_labels(self.settings.cost, labels):
            fix = f"write `{unknown.suggestion}`" if unknown.suggestion else "remove it"
            raise ConfigError(unknown.message, where=self._place("cost", unknown.key), fix=fix)

    def add_to(self, summaries: Sequence[dict[str, Any]], rows: Sequence[RowResult]) -> list[str]:
        """Add these metrics, and the interval of each metric, to the summaries of models; return the names of these metrics."""
        of_models: dict[str, dict[str, Metric]] = {}
        names: list[str] = []
        groups = groups_of(rows)
        for summary in summaries:
            summary["intervals"] = {}
            if rows[0].reference is None:
                continue
            answers = [row.models[summary["name"]].answer or "" for row in rows]
            references = [row.reference or "" for row in rows]
            metrics = of_models[summary["name"]] = self.of(answers, references, groups, summary["metrics"])
            names = [name for name in metrics if name not in summary["metrics"]]
            summary["metrics"] |= {name: metric.value for name, metric in metrics.items()}
            main = {headline(self.settings.task): summary["interval"]}
            summary["intervals"] = {name: metric.interval for name, metric in metrics.items()} | main
            if summary["versus"]:
                other = of_models[summary["versus"]["model"]]
                summary["versus"]["metrics"] = {name: _difference(other[name], metrics[name], groups) for name in names}
        return names

    def of(
        self, answers: Texts, references: Texts, groups: Groups = None, known: Mapping[str, float] | None = None
    ) -> dict[str, Metric]:
        """Return the metrics of the task, then those of the project, by name; rows of one group count together in intervals.

        `known` has the values of the metrics of the task, if they were computed before.
        """
        task = self.settings.task
        statistics = statistics_of(task, answers, references)
        metrics = {name: Metric(s.observed, s.interval(groups), s) for name, s in statistics.items()}
        values = corpus_scores(task, answers, references) if known is None else known
        metrics |= {name: Metric(value) for name, value in values.items() if name not in statistics}
        if self.settings.cost:
            metrics[MEAN_COST] = _mean_cost(self.settings.cost, answers, references, groups)
        metrics |= self._of_hook(answers, references, (*metrics, *self.settings.combined), groups)
        return metrics | {name: self._combined(name, metrics, groups) for name in self.settings.combined}

    def _of_hook(self, answers: Texts, references: Texts, known: Sequence[str], groups: Groups) -> dict[str, Metric]:
        metrics = {}
        for name, scores in (self.hook(list(answers), list(references)) if self.hook else {}).items():
            assert self.hook is not None
            if name in known:
                what = f"metrics returned `{name}`, which is a metric already"
                raise DataError(what, where=self.hook.where, fix="return it by another name")
            values = [scores] if isinstance(scores, float) else scores
            if wrong := [value for value in values if not math.isfinite(value)]:
                what = f"metrics returned `{name}`: {wrong[0]}"
                raise DataError(what, where=self.hook.where, fix="return finite numbers")
            metrics[name] = Metric(scores) if isinstance(scores, float) else Metric.of_rows(scores, groups)
        return metrics

    def _combined(self, name: str, metrics: dict[str, Metric], groups: Groups) -> Metric:
        weights = self.settings.combined[name]
        if unknown := next((part for part in weights if part not in metrics), None):
            raise self._unknown(name, unknown, list(metrics))
        parts = [(metrics[part], weight) for part, weight in weights.items()]
        statistic = sum_of([(metric.statistic, weight) for metric, weight in parts])
        value = sum(metric.value * weight for metric, weight in parts)
        return Metric(value, statistic.interval(groups) if statistic else None, statistic)

    def _unknown(self, name: str, part: str, known: Sequence[str]) -> ConfigError:
        near = nearest(part, known)
        fix = f"write `{near}`" if near else f"metrics: {', '.join(known)}"
        return ConfigError(f"no metric is called `{part}`", where=self._place("combined", name, part), fix=fix)

    def _place(self, key: str, *inner: str) -> Location:
        """Return the place in evaluation.json of one of its `own_metrics`, for all passes or for one."""
        path = sidecar_path(self.config, EVALUATION)
        if not path.is_file():
            return Location(path)
        owners = [
            name for name, own in self.settings.passes.items() if getattr(own, key) == getattr(self.settings, key)
        ]
        at: KeyPath = ("passes", owners[0]) if owners else ()
        return read_source(path).locate((*at, key, *inner))


def _difference(first: Metric, second: Metric, groups: Groups) -> dict[str, Any]:
    statistic = sum_of([(second.statistic, 1), (first.statistic, -1)])
    return {"difference": second.value - first.value, "interval": statistic.interval(groups) if statistic else None}


def _mean_cost(costs: dict[str, float], answers: Texts, references: Texts, groups: Groups) -> Metric:
    """Return the mean cost of an answer.

    Costs are resampled as shares of the highest one, so that the interval of a model without errors reaches to the errors that
    it may make, at that cost.
    """
    of_confusion = {confusion: cost for key, cost in costs.items() if (confusion := parse_confusion(key))}
    highest = max(1.0, *costs.values())
    shares = [
        0.0 if answer == reference else of_confusion.get(Confusion(reference, answer), 1.0) / highest
        for answer, reference in zip(answers, references, strict=True)
    ]
    mean = Metric.of_rows(shares, groups)
    interval = Interval(highest * mean.interval.low, highest * mean.interval.high) if mean.interval else None
    return Metric(highest * mean.value, interval, mean_of([highest * share for share in shares]))
