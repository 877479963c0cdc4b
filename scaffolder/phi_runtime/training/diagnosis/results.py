"""What the scores of the models say."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from phi_runtime.evaluation.metrics import headline
from phi_runtime.training.diagnosis.problem import Diagnosis

MIN_ROWS = 20  # held-out rows below which two scores are not compared
AT_THE_TOP = 0.99  # a score that leaves nothing to win
LOST = 0.05  # of the score, from the exact weights to the rounded ones …
ERRORS = 2.0  # … and at least this many standard errors of the two shares
WORSE_PERPLEXITY = 1.2  # times the perplexity of the exact weights, where there is no score


def diagnose_results(evaluation: Mapping[str, Any]) -> list[Diagnosis]:
    """What the quality ladder (the content of evaluation.json) says of the models: one that is no better than its base, and one
    that lost much by rounding. By the task's main metric; by perplexity where nothing was asked."""
    rungs = evaluation["rungs"]
    if evaluation["rows"] < MIN_ROWS or not rungs:
        return []
    asked = all(rung["metrics"] for rung in rungs)
    metric = headline(evaluation["task"]) if asked else "perplexity"
    scores = [rung["metrics"][metric] if asked else rung["perplexity"] for rung in rungs]
    found: list[Diagnosis] = []
    base = exact = None  # the scores of the base, and of the last model before rounding
    for rung, score in zip(rungs, scores, strict=True):
        name = rung["name"]
        if name == "base":
            base = score
        elif name.startswith("onnx-int") and exact is not None:
            if _lost(exact[1], score, evaluation["rows"], asked):
                found.append(_rounded(metric, *exact, name, score, asked))
        elif not name.startswith("onnx"):
            exact = (name, score)
            if base is not None and not name.startswith("merged") and _no_better(base, score, asked):
                found.append(_no_gain(metric, base, name, score, asked))
    return found


def _no_better(base: float, tuned: float, asked: bool) -> bool:
    return tuned <= base < AT_THE_TOP if asked else tuned >= base


def _lost(exact: float, rounded: float, rows: int, asked: bool) -> bool:
    if not asked:
        return rounded > WORSE_PERPLEXITY * exact
    error = math.sqrt((exact * (1 - exact) + rounded * (1 - rounded)) / rows)
    return exact - rounded >= max(LOST, ERRORS * error)


def _score(score: float, asked: bool) -> str:
    return f"{100 * score:.1f} %" if asked else f"{score:.2f}"


def _no_gain(metric: str, base: float, name: str, score: float, asked: bool) -> Diagnosis:
    evidence = f"{metric.replace('_', ' ')} {_score(base, asked)} of base, {_score(score, asked)} of {name}"
    advice = (
        "see with `phi-scaffold data preview` that the template is the one that the model is asked with and that the answer is "
        "trained; then more rows, a larger num_train_epochs or r, or learning_rate halved or doubled"
    )
    return Diagnosis("poor results", evidence, "text_template", advice)


def _rounded(metric: str, exact_name: str, exact: float, name: str, score: float, asked: bool) -> Diagnosis:
    evidence = f"{metric.replace('_', ' ')} {_score(exact, asked)} of {exact_name}, {_score(score, asked)} of {name}"
    advice = (
        'in the export, extra_options.matmul_mixed_precision "last_matmul:int8,mixed_layers:int8", int4_block_size 16 or precision '
        "int8; in the training, int4_aware true"
    )
    return Diagnosis("poor results", evidence, "extra_options.matmul_mixed_precision", advice)
