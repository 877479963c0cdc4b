"""Results of a comparison row by row (rows.jsonl), from which tables and reports are computed."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from phi_runtime.core.artifacts import write_text

ROWS = "rows.jsonl"


@dataclass(frozen=True)
class Measured:
    """One model on one row.

    Attributes:
        answer: Its greedy answer; None for free text.
        scores: Metrics of the answer by name, from 0 to 1.
        loss: Negative log-likelihood of the reference in nats, summed over `tokens`; None for a baseline.
        tokens: Tokens of the reference, including the end token if it is trained.
    """

    answer: str | None = None
    scores: dict[str, float] = field(default_factory=dict)
    loss: float | None = None
    tokens: int = 0


@dataclass(frozen=True)
class RowResult:
    """One test row with the results of each model.

    Attributes:
        file, line: Place of the row; the file as it is written in the config.
        prompt, reference: Rendered prompt and expected answer; None for free text.
        models: Results by name of the model, in the order of the comparison, baselines first.
    """

    file: str
    line: int
    prompt: str | None
    reference: str | None
    models: dict[str, Measured]


def write_rows(path: Path, rows: Iterable[RowResult]) -> None:
    """Write one JSON object per row."""
    write_text(path, "".join(json.dumps(asdict(row), ensure_ascii=False) + "\n" for row in rows))


def read_rows(path: Path) -> list[RowResult]:
    """Read what `write_rows` has written. Raises OSError, ValueError."""
    with path.open(encoding="utf-8") as lines:
        return [_row(json.loads(line)) for line in lines]


def _row(raw: dict[str, Any]) -> RowResult:
    return RowResult(**{**raw, "models": {name: Measured(**measured) for name, measured in raw["models"].items()}})
