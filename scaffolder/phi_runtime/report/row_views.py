"""Rows of a comparison as a report shows them: lists of errors, slices, samples, and confusion matrices."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Container, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from phi_runtime.evaluation.class_results import field_results
from phi_runtime.evaluation.intervals import Interval, Scores, interval_of
from phi_runtime.evaluation.metrics import headline
from phi_runtime.evaluation.row_results import Measured, RowResult
from phi_runtime.evaluation.summary import DERIVED, comparable_scores, is_untrained
from phi_runtime.report.project_facts import TrainingFacts

SMALL_SLICE = 10  # rows below which a slice is shown in gray
_SLICES = 30  # of a kind
_SAMPLES = 12
MAX_LABELS = 20  # of a confusion matrix
FEW_LABELS = 6


@dataclass(frozen=True)
class RowComparison:
    """The rows of evaluation.json with the score of each model on each row.

    Attributes:
        evaluation: Content of evaluation.json.
        rows: (N,) the rows.
        scores: By model, baselines included: the scores of the main metric; for free text, log-likelihoods per token.
    """

    evaluation: Mapping[str, Any]
    rows: Sequence[RowResult]
    scores: Mapping[str, Scores]

    @property
    def task(self) -> str:
        task: str = self.evaluation["task"]
        return task

    @property
    def is_free_text(self) -> bool:
        return self.rows[0].reference is None

    @property
    def counts_rows(self) -> bool:
        """True if each answer is right or wrong."""
        return not self.is_free_text and all(scores.is_share for scores in self.scores.values())

    @property
    def metric(self) -> str:
        """Name of the scores."""
        return "log-likelihood per token" if self.is_free_text else headline(self.task).replace("_", " ")

    @property
    def trained(self) -> list[str]:
        """Models that training made, from the adapter to the last export."""
        names = [model["name"] for model in self.evaluation["models"] if model["name"] in self.scores]
        return [name for name in names if not is_untrained(name)]

    @property
    def shown(self) -> list[str]:
        """The models whose answers are shown: the best baseline, and all that are no baseline."""
        models = [m["name"] for m in self.evaluation["models"] if m["name"] in self.scores]
        best = best_baseline(self.evaluation)
        return [best["name"], *models] if best and best["name"] in self.scores else models


@dataclass(frozen=True)
class RowList:
    """Rows that have something in common.

    Attributes:
        title: Such as "Lost by onnx-int4".
        note: Their meaning and their order.
        rows: Indices of the rows, the most important first.
    """

    title: str
    note: str
    rows: list[int]


@dataclass(frozen=True)
class Slice:
    """Rows with the same property, and the main metric of models on them.

    Attributes:
        kind: Property, such as "label" or "length".
        name: Its value.
        results: By model: mean and interval; of free text, perplexities.
        slices: Number of slices of this kind, with those that are not returned.
    """

    kind: str
    name: str
    rows: int
    results: dict[str, tuple[float, Interval | None]]
    slices: int

    @property
    def is_small(self) -> bool:
        return self.rows < SMALL_SLICE


def read_comparison(evaluation: Mapping[str, Any] | None, rows: Sequence[RowResult]) -> RowComparison | None:
    """Return the comparison; None without rows, or if no model of evaluation.json has results on each of them."""
    if evaluation is None or not rows:
        return None
    names = [m["name"] for m in (*evaluation["baselines"], *evaluation["models"])]
    complete = [name for name in names if all(name in row.models for row in rows)]
    if not complete:
        return None
    references = [row.reference for row in rows]
    scores = {
        name: comparable_scores(evaluation["task"], [row.models[name] for row in rows], references) for name in complete
    }
    return RowComparison(evaluation, rows, scores)


def best_baseline(evaluation: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the baseline with the highest main metric."""
    metric = headline(evaluation["task"])
    measured = [baseline for baseline in evaluation["baselines"] if metric in baseline["metrics"]]
    return max(measured, key=lambda baseline: baseline["metrics"][metric], default=None)


@dataclass(frozen=True)
class TrainingView:
    """A training with what is computed from its rows."""

    facts: TrainingFacts

    @cached_property
    def comparison(self) -> RowComparison | None:
        return read_comparison(self.facts.evaluation, self.facts.rows)

    @cached_property
    def errors(self) -> list[RowList]:
        return errors(self.comparison) if self.comparison else []

    @cached_property
    def slices(self) -> dict[str, list[Slice]]:
        return slices(self.comparison) if self.comparison else {}

    @cached_property
    def samples(self) -> list[int]:
        return samples(self.comparison) if self.comparison else []

    @property
    def models(self) -> list[Mapping[str, Any]]:
        """All models of the comparison, baselines first."""
        evaluation = self.facts.evaluation
        return [*evaluation["baselines"], *evaluation["models"]] if evaluation else []

    @property
    def baseline(self) -> Mapping[str, Any] | None:
        return best_baseline(self.facts.evaluation) if self.facts.evaluation else None

    @cached_property
    def confusions(self) -> dict[str, ConfusionMatrix]:
        """The confusion matrix of each model that is no baseline; empty if the task has no labels."""
        comparison = self.comparison
        if comparison is None or comparison.task != "classification" or comparison.is_free_text:
            return {}
        names = [model["name"] for model in comparison.evaluation["models"] if model["name"] in comparison.scores]
        return {name: confusion(comparison.rows, name) for name in names}

    @cached_property
    def fields(self) -> dict[str, Mapping[str, Any]]:
        """The results of each field for the models that slices are shown for; empty if the task has no fields."""
        comparison = self.comparison
        if comparison is None or comparison.task != "extraction" or comparison.is_free_text:
            return {}
        references = [row.reference or "" for row in comparison.rows]
        results = {
            name: field_results([row.models[name].answer or "" for row in comparison.rows], references)["fields"]
            for name in slice_models(comparison)
        }
        return results if any(results.values()) else {}

    @property
    def has_many_labels(self) -> bool:
        return any(len(matrix.answers) > FEW_LABELS for matrix in self.confusions.values())

    @property
    def is_free_text(self) -> bool:
        return bool(self.models) and not any(model["metrics"] for model in self.models)


# -- errors -------------------------------------------------------------------------------------------------------------------


def errors(comparison: RowComparison) -> list[RowList]:
    """Return the lists of errors that have rows: lost by what was made of a model, wrong in all, and most confident."""
    lists = [*_lost(comparison), *_wrong_in_all(comparison), *_most_confident(comparison)]
    return [found for found in lists if found.rows]


def _lost(comparison: RowComparison) -> Iterable[RowList]:
    """Yield the rows on which a merged or exported model is worse than the model that it was made of."""
    for model in comparison.evaluation["models"]:
        name, versus = model["name"], model["versus"]
        if not versus or not {name, versus["model"]} <= comparison.scores.keys() or not name.startswith(DERIVED):
            continue
        before, after = comparison.scores[versus["model"]].values, comparison.scores[name].values
        drops = {i: old - new for i, (old, new) in enumerate(zip(before, after, strict=True)) if new < old}
        if comparison.is_free_text and versus["outcome"] != "worse":
            continue  # each row differs by a rounding error
        note = f"Right with `{versus['model']}`, wrong with `{name}`."
        if not comparison.counts_rows:
            note = f"Lower {comparison.metric} with `{name}` than with `{versus['model']}`, the largest drop first."
        yield RowList(f"Lost by {name}", note, sorted(drops, key=lambda i: (-drops[i], i)))


def _wrong_in_all(comparison: RowComparison) -> Iterable[RowList]:
    if not comparison.counts_rows or not comparison.trained:
        return
    wrong = [
        i for i in range(len(comparison.rows)) if not any(comparison.scores[m].values[i] for m in comparison.trained)
    ]
    note = "No trained model is right: the row is hard, or its expected answer is wrong."
    yield RowList("Wrong in all trained models", note, wrong)


def _most_confident(comparison: RowComparison) -> Iterable[RowList]:
    """Yield the rows of the last model that are wrong, or worst, in the order of their loss."""
    if not comparison.trained:
        return
    name = comparison.trained[-1]
    measured, values = [row.models[name] for row in comparison.rows], comparison.scores[name].values
    losses = [m.loss or 0.0 for m in measured]
    if comparison.counts_rows:
        wrong = [i for i, value in enumerate(values) if value == 0]
        sure = {i: confidence(measured[i]) for i in wrong}
        known = [share for share in sure.values() if share is not None]
        note = "By the loss of the expected answer, the highest first: the model is surest of another one."
        if wrong and len(known) == len(wrong):
            note = "By the probability of the answer among the labels, the highest first."
        else:
            sure = {i: losses[i] for i in wrong}
        yield RowList(f"Most confident errors of {name}", note, sorted(wrong, key=lambda i: (-(sure[i] or 0.0), i)))
        return
    worst = sorted(range(len(values)), key=lambda i: (values[i], -losses[i], i))[: max(len(values) // 4, 1)]
    kind = "Least likely rows" if comparison.is_free_text else "Lowest scores"
    yield RowList(f"{kind} of {name}", f"The lowest quarter by {comparison.metric}, the lowest first.", worst)


def confidence(measured: Measured) -> float | None:
    """Return the probability of the answer among the labels; None if labels were not scored, or if it is none of them."""
    scores = measured.label_logprobs
    if not scores or measured.answer not in scores:
        return None
    highest = max(scores.values())
    shares = {label: math.exp(score - highest) for label, score in scores.items()}
    return shares[measured.answer] / sum(shares.values())


# -- slices -------------------------------------------------------------------------------------------------------------------


def slices(comparison: RowComparison) -> dict[str, list[Slice]]:
    """Return the slices by kind; a kind that does not divide the rows is absent.

    Of more than 30 slices of a kind, those with the most rows are returned.
    """
    properties: dict[str, Callable[[RowResult], Hashable]] = {
        "expected answer": lambda row: row.reference if comparison.task == "classification" else None,
        "length": _length_quartile(comparison.rows),
        "group": lambda row: row.group,
        "near duplicate": _near_duplicate,
        "file": lambda row: row.file,
    }
    found = {kind: _slices_of(comparison, kind, value) for kind, value in properties.items()}
    return {kind: parts for kind, parts in found.items() if len(parts) > 1}


def _slices_of(comparison: RowComparison, kind: str, value: Callable[[RowResult], Hashable]) -> list[Slice]:
    parts: dict[Hashable, list[int]] = {}
    for i, row in enumerate(comparison.rows):
        if (key := value(row)) is not None:
            parts.setdefault(key, []).append(i)
    largest = sorted(parts.items(), key=lambda part: (-len(part[1]), str(part[0])))[:_SLICES]
    names = slice_models(comparison)
    found = [
        Slice(kind, str(key), len(chosen), {name: _result(comparison, name, chosen) for name in names}, len(parts))
        for key, chosen in largest
    ]
    return sorted(found, key=lambda part: part.name) if kind == "length" else found


def slice_models(comparison: RowComparison) -> list[str]:
    """Return the models that slices are shown for: the best baseline, the first trained model and the last one."""
    best = best_baseline(comparison.evaluation)
    names = [best["name"]] if best and best["name"] in comparison.scores else []
    return [*names, *dict.fromkeys([*comparison.trained[:1], *comparison.trained[-1:]])]


def _result(comparison: RowComparison, model: str, chosen: Sequence[int]) -> tuple[float, Interval | None]:
    scores = comparison.scores[model]
    part = Scores([scores.values[i] for i in chosen], scores.weights and [scores.weights[i] for i in chosen])
    mean, interval = part.mean, interval_of(part)
    if not comparison.is_free_text:
        return mean, interval
    return math.exp(-mean), Interval(math.exp(-interval.high), math.exp(-interval.low)) if interval else None


def _length_quartile(rows: Sequence[RowResult]) -> Callable[[RowResult], str | None]:
    """Return the quarter of rows that a row's prompt, in characters, is in; with fewer than 8 lengths there are none."""
    lengths = sorted(len(row.prompt or "") for row in rows)
    if len(set(lengths)) < 8:
        return lambda _: None
    ends = [lengths[(len(lengths) * quarter) // 4 - 1] for quarter in (1, 2, 3, 4)]

    def quartile(row: RowResult) -> str:
        length = len(row.prompt or "")
        index = next(i for i, end in enumerate(ends) if length <= end)
        first = lengths[0] if not index else ends[index - 1] + 1
        return f"quarter {index + 1}: {first:,}–{ends[index]:,} characters"

    return quartile


def _near_duplicate(row: RowResult) -> str | None:
    if row.near_duplicate is None:
        return None
    return "question also in training, exactly or nearly" if row.near_duplicate else "question not in training"


# -- samples ------------------------------------------------------------------------------------------------------------------


def samples(comparison: RowComparison) -> list[int]:
    """Return rows for reading: of each expected answer in turn for classification, else evenly over all."""
    count = len(comparison.rows)
    if comparison.task != "classification":
        return sorted(
            {i * count // _SAMPLES for i in range(min(_SAMPLES, count))} if count >= _SAMPLES else range(count)
        )
    seen: Counter[str | None] = Counter()
    turns = []
    for i, row in enumerate(comparison.rows):
        turns.append((seen[row.reference], i))
        seen[row.reference] += 1
    return sorted(i for _, i in sorted(turns)[:_SAMPLES])


# -- confusion matrix ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ConfusionMatrix:
    """A confusion matrix.

    Attributes:
        expected: (L,) labels; of many, the most frequent, and `other` for the rest.
        answers: (M,) the same labels, `other label` for the rest, and `no label` for answers that are none.
        counts: (L, M) rows.
    """

    expected: list[str]
    answers: list[str]
    counts: list[list[int]]


def confusion(rows: Sequence[RowResult], model: str) -> ConfusionMatrix:
    """Return the confusion matrix of a model, with at most 20 labels. The names of sums are in parentheses if labels have them."""
    references = Counter(row.reference or "" for row in rows)
    kept = sorted(references)
    if len(kept) > MAX_LABELS - 2:
        kept = sorted(sorted(kept, key=lambda label: -references[label])[: MAX_LABELS - 2])
    other, other_label, no_label = (_free_name(name, references) for name in ("other", "other label", "no label"))
    pairs: Counter[tuple[str, str]] = Counter()
    for row in rows:
        answer, expected = row.models[model].answer or "", row.reference or ""
        column = answer if answer in kept else other_label if answer in references else no_label
        pairs[expected if expected in kept else other, column] += 1
    has_others = len(kept) < len(references)
    has_none = any(column == no_label for _, column in pairs)
    labels, answers = [*kept, *[other] * has_others], [*kept, *[other_label] * has_others, *[no_label] * has_none]
    return ConfusionMatrix(labels, answers, [[pairs[label, answer] for answer in answers] for label in labels])


def _free_name(name: str, labels: Container[str]) -> str:
    return _free_name(f"({name})", labels) if name in labels else name
