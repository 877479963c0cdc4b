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
    """Diagnose a comparison (the content of evaluation.json): no better than the base, or much lost to quantization.

    Uses the main metric of the task, or the perplexity for free text.
    """
    models = evaluation["models"]
    if evaluation["rows"] < MIN_ROWS or not models:
        return []
    has_scores = all(model["metrics"] for model in models)
    metric = headline(evaluation["task"]) if has_scores else "perplexity"
    scores = [model["metrics"][metric] if has_scores else model["perplexity"] for model in models]
    found: list[Diagnosis] = []
    base = exact = None  # the scores of the base, and of the last model before rounding
    for model, score in zip(models, scores, strict=True):
        name = model["name"]
        if name == "base":
            base = score
        elif name.startswith("onnx-int") and exact is not None:
            if _lost(exact[1], score, evaluation["rows"], has_scores):
                found.append(_rounded(metric, *exact, name, score, has_scores))
        elif not name.startswith("onnx"):
            exact = (name, score)
            if base is not None and not name.startswith("merged") and _no_better(base, score, has_scores):
                found.append(_no_gain(metric, base, name, score, has_scores))
    return found


def _no_better(base: float, tuned: float, has_scores: bool) -> bool:
    return tuned <= base < AT_THE_TOP if has_scores else tuned >= base


def _lost(exact: float, rounded: float, rows: int, has_scores: bool) -> bool:
    if not has_scores:
        return rounded > WORSE_PERPLEXITY * exact
    error = math.sqrt((exact * (1 - exact) + rounded * (1 - rounded)) / rows)
    return exact - rounded >= max(LOST, ERRORS * error)


def _score(score: float, has_scores: bool) -> str:
    return f"{100 * score:.1f} %" if has_scores else f"{score:.2f}"


def _no_gain(metric: str, base: float, name: str, score: float, has_scores: bool) -> Diagnosis:
    evidence = f"{metric.replace('_', ' ')} {_score(base, has_scores)} of base, {_score(score, has_scores)} of {name}"
    advice = (
        "see with `phi-scaffold data preview` that the template is the one that the model is has_scores with and that the answer is "
        "trained; then more rows, a larger num_train_epochs or r, or learning_rate halved or doubled"
    )
    return Diagnosis("poor results", evidence, "text_template", advice)


def _rounded(metric: str, exact_name: str, exact: float, name: str, score: float, has_scores: bool) -> Diagnosis:
    evidence = (
        f"{metric.replace('_', ' ')} {_score(exact, has_scores)} of {exact_name}, {_score(score, has_scores)} of {name}"
    )
    advice = (
        'in the export, extra_options.matmul_mixed_precision "last_matmul:int8,mixed_layers:int8", int4_block_size 16 or precision '
        "int8; in the training, int4_aware true"
    )
    return Diagnosis("poor results", evidence, "extra_options.matmul_mixed_precision", advice)
