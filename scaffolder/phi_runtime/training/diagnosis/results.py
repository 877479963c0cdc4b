"""Problems that show in the scores of the models: no gain over the base, loss by rounding."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from phi_runtime.evaluation.metrics import headline
from phi_runtime.training.diagnosis.problem import Diagnosis

MIN_ROWS = 20  # test rows below which two scores are not compared
NEARLY_PERFECT = 0.99  # a score that leaves nothing to gain
LOST = 0.05  # of the score, between exact and rounded weights …
STANDARD_ERRORS = 2.0  # … and at least this many standard errors of their difference
WORSE_PERPLEXITY = 1.2  # times that of the exact weights, for free text, which has no score


def diagnose_results(evaluation: Mapping[str, Any]) -> list[Diagnosis]:
    """Return the models that are no better than their base, and those that lost quality by rounding.

    Judged by the main metric of the task, or by perplexity if the rows are free text.

    Args:
        evaluation: Content of evaluation.json, the comparison of the models.
    """
    models = evaluation["models"]
    if evaluation["rows"] < MIN_ROWS or not models:
        return []
    has_metrics = all(model["metrics"] for model in models)
    criterion = _Criterion(headline(evaluation["task"]) if has_metrics else "perplexity", evaluation["rows"])
    diagnoses: list[Diagnosis] = []
    base: float | None = None
    exact: tuple[str, float] | None = None  # name and score of the last model with exact weights
    for model in models:
        name = model["name"]
        score = model["metrics"][criterion.metric] if has_metrics else model["perplexity"]
        if name == "base":
            base = score
        elif name.startswith("onnx-int") and exact is not None:
            if criterion.lost_by_rounding(exact[1], score):
                diagnoses.append(_rounded(criterion.compare(*exact, name, score)))
        elif not name.startswith("onnx"):
            exact = (name, score)
            if base is not None and not name.startswith("merged") and criterion.no_gain(base, score):
                diagnoses.append(_no_gain(criterion.compare("base", base, name, score)))
    return diagnoses


@dataclass(frozen=True)
class _Criterion:
    """Metric by which models are compared, over a number of rows."""

    metric: str
    rows: int

    @property
    def lower_is_better(self) -> bool:
        return self.metric == "perplexity"

    def no_gain(self, base: float, trained: float) -> bool:
        return trained >= base if self.lower_is_better else trained <= base < NEARLY_PERFECT

    def lost_by_rounding(self, exact: float, rounded: float) -> bool:
        if self.lower_is_better:
            return rounded > WORSE_PERPLEXITY * exact
        standard_error = math.sqrt((exact * (1 - exact) + rounded * (1 - rounded)) / self.rows)
        return exact - rounded >= max(LOST, STANDARD_ERRORS * standard_error)

    def compare(self, name: str, score: float, other_name: str, other_score: float) -> str:
        """Return the scores of two models as text."""
        pairs = ((name, score), (other_name, other_score))
        if self.lower_is_better:
            scores = ", ".join(f"{value:.2f} ({model})" for model, value in pairs)
        else:
            scores = ", ".join(f"{100 * value:.1f} % ({model})" for model, value in pairs)
        return f"{self.metric.replace('_', ' ')} {scores}"


def _no_gain(evidence: str) -> Diagnosis:
    advice = (
        "check with `phi-scaffold data preview` that the template matches the prompts used for inference and that the answers are "
        "trained; then add rows, raise num_train_epochs or r, or halve or double learning_rate"
    )
    return Diagnosis("poor results", evidence, "text_template", advice)


def _rounded(evidence: str) -> Diagnosis:
    advice = (
        'in the export, set extra_options.matmul_mixed_precision "last_matmul:int8,mixed_layers:int8", int4_block_size 16 or '
        "precision int8; in the training, set int4_aware true"
    )
    return Diagnosis("poor results", evidence, "extra_options.matmul_mixed_precision", advice)
