"""Metrics, intervals and differences of the compared models, as a pure function of the results of each row."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from phi_runtime.evaluation.class_results import field_results, label_results
from phi_runtime.evaluation.intervals import Difference, Interval, Scores, compare, interval_of
from phi_runtime.evaluation.metrics import headline_scores
from phi_runtime.evaluation.row_results import Measured, RowResult, groups_of

BASE = "base"
UNTRAINED = (BASE, "input_adapter")  # models that the training starts from
LABELS_SCORED, FEW_SHOT = f"{BASE}, labels scored", f"{BASE}, few-shot"  # the base with other prompts or scores
DERIVED = ("merged", "onnx")  # beginnings of the names of models that are made of the model before
_MAX_LOG_PERPLEXITY = 50  # keeps exp() finite
_SEED = 0


def is_untrained(name: str) -> bool:
    """Return True for a model that the training starts from, with any prompt: `base`, `base, few-shot`."""
    return name.partition(",")[0] in UNTRAINED


def summarize(task: str, rows: Sequence[RowResult]) -> list[dict[str, Any]]:
    """Return the summary of each model in the order of the comparison, documented in docs/json.md.

    A trained model is compared with the best of the baselines and untrained models, and what is made of it (`merged`, `onnx-…`)
    with the model before: by the main metric of the task, or for free text by the log-likelihood of a token.

    Args:
        task: Task of the evaluation.
        rows: At least one row, each with the same models.
    """
    from phi_runtime.evaluation.row_statistics import score

    results = {name: [row.models[name] for row in rows] for name in rows[0].models}
    references = [row.reference for row in rows]
    groups = groups_of(rows)
    summaries: list[dict[str, Any]] = []
    scores = {name: comparable_scores(task, measured, references) for name, measured in results.items()}
    best = previous = ""  # names: of the untrained models, and of the model before
    for name, measured in results.items():
        summary: dict[str, Any] = {"name": name, "metrics": {}, "interval": None}
        if references[0] is not None:
            summary["metrics"] = score(task, [m.answer or "" for m in measured], [str(r) for r in references])
            summary["interval"] = interval_of(scores[name], groups, seed=_SEED)
        if task == "classification" and references[0] is not None:
            summary |= label_results([m.answer or "" for m in measured], [str(r) for r in references])
        if task == "extraction" and references[0] is not None:
            summary |= field_results([m.answer or "" for m in measured], [str(r) for r in references])
        untrained = measured[0].loss is None or is_untrained(name)
        other = "" if untrained else previous if name.startswith(DERIVED) else best
        versus = _versus(other, scores, name, groups) if other else None
        summaries.append(summary | _likelihood(task, measured, rows, groups) | {"versus": versus})
        if untrained and (not best or scores[name].mean > scores[best].mean):
            best = name
        previous = name.partition(",")[0]
    return summaries


def compare_rows(task: str, first: Sequence[RowResult], second: Sequence[RowResult]) -> Difference:
    """Compare the only model of `first` with that of `second`, by what `summarize` compares.

    Raises:
        ValueError: The rows are not the same ones.
    """
    if [(row.file, row.line) for row in first] != [(row.file, row.line) for row in second]:
        raise ValueError("the models were measured on different rows")
    references = [row.reference for row in first]
    one, other = (
        comparable_scores(task, [next(iter(row.models.values())) for row in rows], references)
        for rows in (first, second)
    )
    return compare(one, other, seed=_SEED)


def comparable_scores(task: str, measured: Sequence[Measured], references: Sequence[str | None]) -> Scores:
    """Return what models are compared by: the scores of the main metric, or log-likelihoods per token."""
    if references[0] is None:
        return _log_likelihoods(measured)
    return headline_scores(task, [m.answer or "" for m in measured], [str(r) for r in references])


def _acc_norm(measured: Sequence[Measured], rows: Sequence[RowResult]) -> Scores:
    """Return 1 where the label of the best log-probability per character is right (`acc_norm` of lm-evaluation-harness)."""

    def best(logprobs: dict[str, float]) -> str:
        return max(logprobs, key=lambda label: logprobs[label] / len(label))

    return Scores([float(best(m.label_logprobs or {}) == row.reference) for m, row in zip(measured, rows, strict=True)])


def _likelihood(
    task: str, measured: Sequence[Measured], rows: Sequence[RowResult], groups: Sequence[int] | None
) -> dict[str, Any]:
    """Return losses with their intervals: per reference, per token, and of the label alone or per byte; None for a baseline."""
    keys = ("perplexity", "label_loss", "bits_per_byte", "acc_norm")
    empty = {name: None for key in keys for name in (key, f"{key}_interval")}
    if measured[0].loss is None:
        return {"loss": None, **empty}
    interval = interval_of(_log_likelihoods(measured), groups, seed=_SEED)
    found = {
        "loss": sum(m.loss or 0.0 for m in measured) / len(measured),
        **empty,
        "perplexity": perplexity(measured),
        "perplexity_interval": Interval(_exp(-interval.high), _exp(-interval.low)) if interval else None,
    }
    if measured[0].label_logprobs:
        found |= _mean("acc_norm", _acc_norm(measured, rows), groups)
    losses = [m.text_loss for m in measured]
    if task == "classification" and rows[0].reference is not None:
        return found | _mean("label_loss", Scores(losses), groups)
    sizes = [max(row.text_bytes, 1) for row in rows]
    bits = [loss / math.log(2) / size for loss, size in zip(losses, sizes, strict=True)]
    return found | _mean("bits_per_byte", Scores(bits, sizes), groups)


def _mean(key: str, scores: Scores, groups: Sequence[int] | None) -> dict[str, Any]:
    return {key: scores.mean, f"{key}_interval": interval_of(scores, groups, seed=_SEED)}


def _log_likelihoods(measured: Sequence[Measured]) -> Scores:
    """Return the log-likelihoods of the references per token, in nats."""
    tokens = [max(m.tokens, 1) for m in measured]
    return Scores([-(m.loss or 0.0) / count for m, count in zip(measured, tokens, strict=True)], tokens)


def perplexity(measured: Sequence[Measured]) -> float:
    """Return the perplexity of a model per token of the references."""
    tokens = sum(m.tokens for m in measured)
    return _exp(sum(m.loss or 0.0 for m in measured) / max(tokens, 1))


def _exp(value: float) -> float:
    return math.exp(min(value, _MAX_LOG_PERPLEXITY))


def _versus(model: str, scores: dict[str, Scores], name: str, groups: Sequence[int] | None) -> dict[str, Any]:
    difference: Difference = compare(scores[model], scores[name], groups, seed=_SEED)
    return {
        "model": model,
        "difference": difference.value,
        "interval": difference.interval,
        "lost": difference.lost,
        "gained": difference.gained,
        "p": difference.p,
        "outcome": difference.outcome,
        "rows_needed": difference.rows_needed,
        "metrics": {},
    }
