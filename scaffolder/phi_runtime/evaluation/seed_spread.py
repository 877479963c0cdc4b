"""The spread of a model's result over trainings with other seeds."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import mean, stdev
from typing import Any

from phi_runtime.evaluation.metrics import main_result


def add_seeds(content: dict[str, Any], seed: int | None, others: Mapping[int, Mapping[str, Any]]) -> None:
    """Add the seeds of a comparison to it, and to each trained model the spread of its main metric over them.

    Args:
        content: Content of evaluation.json.
        seed: Seed of the training; None if nothing was trained.
        others: Content of evaluation.json of the other seeds, on the same rows.
    """
    content["seeds"] = [] if seed is None else [seed, *others]
    for model in content["models"]:
        results = [_result(content, model["name"]), *(_result(other, model["name"]) for other in others.values())]
        values = [value for value in results if value is not None]
        model["seeds"] = _spread(values) if others and len(values) == len(results) else None


def _result(content: Mapping[str, Any], name: str) -> float | None:
    """Return the main metric of a model, for free text its perplexity; None if it was not measured."""
    model = next((model for model in content["models"] if model["name"] == name), None)
    return main_result(content["task"], model)[1] if model else None


def _spread(values: list[float]) -> dict[str, Any]:
    return {
        "values": values,
        "mean": mean(values),
        "min": min(values),
        "max": max(values),
        "standard_deviation": stdev(values),
    }
