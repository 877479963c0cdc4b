"""A finding with the first change that is not made yet, and the places of settings and rows."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import PurePosixPath
from typing import Any

from phi_runtime.report.changes import EVALUATION, AdvisedChange, as_text, open_changes, value_at
from phi_runtime.report.facts import Facts
from phi_runtime.training.diagnosis import Diagnosis
from phi_runtime.training.diagnosis.problem import Light, ProblemKind

MUCH = 0.05  # share of rows, or loss of the main metric, that matters


def finding(
    facts: Facts,
    problem: ProblemKind,
    evidence: str,
    light: Light,
    action: str,
    changes: Iterable[AdvisedChange] = (),
    *,
    file: str = "",
    setting: str = "",
) -> Diagnosis:
    """Return a diagnosis with the first of `changes` that is not made, and after the others `action`.

    Args:
        file: File to change if no change is left.
        setting: Key to set if no change is left, whose value the user knows.
    """
    left = open_changes(changes, facts.workflow)
    value: Any = None
    if left:
        setting, value = next(iter(left[0].values.items()))
        file = PurePosixPath(facts.config).with_name(EVALUATION).as_posix() if left[0].in_evaluation else facts.config
    elif setting:
        file = facts.config
    texts = [as_text(change, facts.workflow) for change in left]
    advice = "; ".join(filter(None, [", or ".join(texts), action]))
    return Diagnosis(problem, evidence, setting, advice, value, file, light)


def side_keys(side: str) -> tuple[str, str]:
    """Return the keys of a training for the data and for the size of its `test` or `validation` rows."""
    name = "test" if side == "test" else "eval"
    return f"{name}_data_config", f"{name}_dataset_size"


def data_key(facts: Facts) -> str:
    """Return the key of the settings of the training data."""
    name = facts.step.train_data_config if facts.step else ""
    return f"data_configs.{name}.pre_process_data_config"


def evaluation_key(facts: Facts, key: str) -> str:
    """Return where evaluation.json has a setting of this training."""
    own = f"passes.{facts.training}.{key}"
    return own if value_at(facts.workflow.evaluation, own) is not None else key


def rows_file(facts: Facts) -> str:
    """Return the files of the measured rows."""
    files = dict.fromkeys(row.file for row in facts.rows)
    return ", ".join(files)
