"""Problems that show in the scores of the models: no gain over the base, loss by rounding."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from phi_runtime.evaluation.metrics import headline
from phi_runtime.training.diagnosis.problem import Diagnosis

MIN_ROWS = 20  # rows below which two scores are not compared
NEARLY_PERFECT = 0.99  # a score that leaves nothing to gain
WORSE_PERPLEXITY = (
    1.2  # times that of the exact weights, for free text, of which the smallest difference is significant
)


def diagnose_results(evaluation: Mapping[str, Any]) -> list[Diagnosis]:
    """Return the models that are no better than a baseline or their base, and those that lost quality by rounding.

    Judged by the paired comparison of the main metric of the task, or of the perplexity if the rows are free text.

    Args:
        evaluation: Content of evaluation.json, the comparison of the models.
    """
    if evaluation["rows"] < MIN_ROWS:
        return []
    models = {model["name"]: model for model in (*evaluation["baselines"], *evaluation["models"])}
    diagnoses: list[Diagnosis] = []
    for model in evaluation["models"]:
        if (versus := model["versus"]) is None:
            continue
        other = models[versus["model"]]
        evidence = _evidence(evaluation["task"], other, model)
        if model["name"].startswith("onnx-int"):
            worse = versus["outcome"] == "worse"
            if worse and (model["metrics"] or model["perplexity"] > WORSE_PERPLEXITY * other["perplexity"]):
                diagnoses.append(_rounded(evidence))
        elif _is_untrained(other, evaluation) and versus["outcome"] != "better" and not _is_perfect(evaluation, other):
            diagnoses.append(_no_gain(evidence))
    return diagnoses


def _is_untrained(model: Mapping[str, Any], evaluation: Mapping[str, Any]) -> bool:
    return model["name"] == "base" or model in evaluation["baselines"]


def _is_perfect(evaluation: Mapping[str, Any], model: Mapping[str, Any]) -> bool:
    return bool(model["metrics"]) and model["metrics"][headline(evaluation["task"])] >= NEARLY_PERFECT


def _evidence(task: str, *models: Mapping[str, Any]) -> str:
    """Return the scores of models as text."""
    if not all(model["metrics"] for model in models):
        return "perplexity " + ", ".join(f"{model['perplexity']:.2f} ({model['name']})" for model in models)
    metric = headline(task)
    scores = ", ".join(f"{100 * model['metrics'][metric]:.1f} % ({model['name']})" for model in models)
    return f"{metric.replace('_', ' ')} {scores}"


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
