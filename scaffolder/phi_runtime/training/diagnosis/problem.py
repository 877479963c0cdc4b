"""A problem of a training run, as it is shown and recorded."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

ProblemKind = Literal[
    "learning rate too high",
    "overfitting",
    "nothing learned",
    "learning rate too low",
    "not finished",
    "plateau",
    "memory",
    "slow training",
    "poor results",
]


@dataclass(frozen=True)
class Diagnosis:
    """One problem of a run.

    Attributes:
        problem: Kind of problem.
        evidence: The numbers behind it.
        setting: Dotted key, in the config of the pass, of the setting to change.
        advice: New value of that setting, and what else helps.
    """

    problem: ProblemKind
    evidence: str
    setting: str
    advice: str

    def as_dict(self) -> dict[str, str]:
        """Return the entry of `diagnosis` in the stage's manifest and `metric` event."""
        return asdict(self)


def read_diagnoses(run_folder: Path) -> list[tuple[str, Diagnosis]]:
    """Return the diagnoses recorded in the metrics.jsonl of a run (gen-model/runs/<id>/), each with its stage."""
    try:
        lines = (run_folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    events = (json.loads(line) for line in lines if '"diagnosis"' in line)
    return [(event["stage"], Diagnosis(**entry)) for event in events for entry in event["diagnosis"]]
