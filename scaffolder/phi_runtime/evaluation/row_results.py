"""Results of a comparison row by row (rows.jsonl), from which tables and reports are computed (evaluation.json)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phi_runtime.core.artifacts import write_text

if TYPE_CHECKING:
    from phi_runtime.inference.generator import FinishReason

ROWS = "rows.jsonl"
RESULTS = "evaluation.json"


@dataclass(frozen=True)
class Measured:
    """One model on one row.

    Attributes:
        answer: Its greedy answer; None for free text.
        finish_reason: `stop`: the model ended the answer; `length`: `max_new_tokens` did. None if nothing was generated.
        scores: Metrics of the answer by name, from 0 to 1.
        loss: Negative log-likelihood of the reference in nats, summed over `tokens`; None for a baseline.
        tokens: Tokens of the reference, including its end if it is trained: the text of the template after it, and the end
            token.
        end_loss, end_tokens: The part of both that is the end.
        label_logprobs: Log-probability (nats) of each label after the prompt, summed over its tokens; None where labels are
            not scored.
    """

    answer: str | None = None
    scores: dict[str, float] = field(default_factory=dict)
    loss: float | None = None
    tokens: int = 0
    end_loss: float = 0.0
    end_tokens: int = 0
    finish_reason: FinishReason | None = None
    label_logprobs: dict[str, float] | None = None

    @property
    def text_loss(self) -> float:
        """Negative log-likelihood of the text of the reference, without its end."""
        return (self.loss or 0.0) - self.end_loss


@dataclass(frozen=True)
class RowResult:
    """One test row with the results of each model.

    Attributes:
        file, line: Place of the row; the file relative to the project, or only its name if it is not in the project.
        prompt, reference: Rendered prompt and expected answer; None for free text.
        models: Results by name of the model, in the order of the comparison, baselines first.
        group: Value of the column `group_by`; None without one.
        near_duplicate: True if training has its question, exactly or nearly; None if that is not known.
        text_bytes: UTF-8 bytes of the text whose likelihood is measured, without its end.
    """

    file: str
    line: int
    prompt: str | None
    reference: str | None
    models: dict[str, Measured]
    group: str | None = None
    text_bytes: int = 0
    near_duplicate: bool | None = None


def groups_of(rows: Sequence[RowResult]) -> list[int] | None:
    """Return the number of the group of each row; one without a group is a group of its own."""
    if all(row.group is None for row in rows):
        return None
    numbers: dict[str | int, int] = {}
    return [numbers.setdefault(i if row.group is None else row.group, len(numbers)) for i, row in enumerate(rows)]


def write_rows(path: Path, rows: Iterable[RowResult]) -> None:
    """Write one JSON object per row."""
    write_text(path, "".join(json.dumps(row, default=vars, ensure_ascii=False) + "\n" for row in rows))


def read_rows(path: Path) -> list[RowResult]:
    """Read what `write_rows` has written. Raises OSError, ValueError."""
    with path.open(encoding="utf-8") as lines:
        return [_row(json.loads(line)) for line in lines]


def _row(raw: dict[str, Any]) -> RowResult:
    return RowResult(**{**raw, "models": {name: Measured(**measured) for name, measured in raw["models"].items()}})
