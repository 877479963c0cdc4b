"""Findings: problems of a model before its use, from results, rows, data and training, a cause before its effects."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import get_args

from phi_runtime.report import checks_of_data, checks_of_models
from phi_runtime.report.checks_of_models import NO_GAIN
from phi_runtime.report.facts import Facts
from phi_runtime.training.diagnosis import Diagnosis
from phi_runtime.training.diagnosis.problem import Light, ProblemKind

LIGHTS: tuple[Light, ...] = ("not ready", "check", "ready")  # the worst first

_OF_TRAINING: tuple[ProblemKind, ...] = (
    "learning rate too high",
    "nothing learned",
    "too few training rows",
    "overfitting",
    "learning rate too low",
    "not finished",
)
"""Problems that matter where the model is no better than what it started from, and otherwise are a way to improve it."""


_CHECKS: tuple[Callable[[Facts], Iterator[Diagnosis]], ...] = (
    checks_of_models.unmeasured,
    checks_of_data.leaks,
    checks_of_models.truncated,
    checks_of_data.labels,
    checks_of_data.doubtful,
    checks_of_data.few_training_rows,
    checks_of_models.training,
    checks_of_data.imbalance,
    checks_of_data.long_rows,
    checks_of_models.no_gain,
    checks_of_models.few_test_rows,
    checks_of_models.rounding,
    checks_of_models.mostly_wrong,
    checks_of_models.chosen,
    checks_of_data.duplicates,
)


def find(facts: Facts) -> tuple[Diagnosis, ...]:
    """Return the problems of a training and its models, the most important first.

    Those that decide the light are first, among them a cause before its effects: a model that is no better than a baseline has
    a reason, if one is seen, before it.
    """
    found = [diagnosis for check in _CHECKS for diagnosis in check(facts)]
    effects = [diagnosis.light for diagnosis in found if diagnosis.problem in NO_GAIN]
    found = [_as_cause(diagnosis, effects[0]) if effects else diagnosis for diagnosis in found]
    return tuple(sorted(found, key=lambda d: (LIGHTS.index(d.light), _RANK[d.problem])))


_RANK = {problem: rank for rank, problem in enumerate(get_args(ProblemKind))}


def _as_cause(diagnosis: Diagnosis, effect: Light) -> Diagnosis:
    """Return the diagnosis with the light of its effect if it can be the cause of a model without a gain."""
    before = _RANK[diagnosis.problem] < _RANK[NO_GAIN[0]]
    if before and (diagnosis.light != "ready" or diagnosis.problem in _OF_TRAINING):
        return replace(diagnosis, light=min(diagnosis.light, effect, key=LIGHTS.index))
    return diagnosis
