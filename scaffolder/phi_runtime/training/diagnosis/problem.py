"""A problem of a training run, as it is told and as it is recorded."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

Problem = Literal[
    "learning rate too high",
    "overfitting",
    "nothing learnt",
    "learning rate too low",
    "not finished",
    "plateau",
    "memory",
    "slow training",
    "poor results",
]


@dataclass(frozen=True)
class Diagnosis:
    """One problem of a run. `evidence` says it in numbers; `setting` is the dotted key in the pass's config that changes it, and
    `advice` says to what, and what else helps."""

    problem: Problem
    evidence: str
    setting: str
    advice: str

    def as_dict(self) -> dict[str, str]:
        """What is recorded: in the stage's manifest, and in its `metric` event, under "diagnosis"."""
        return asdict(self)


def recorded(run: Path) -> list[tuple[str, Diagnosis]]:
    """Those that the record of a run (gen-model/runs/<id>/) holds in its metric events, each with its stage."""
    try:
        lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    events = (json.loads(line) for line in lines if '"diagnosis"' in line)
    return [(event["stage"], Diagnosis(**entry)) for event in events for entry in event["diagnosis"]]
