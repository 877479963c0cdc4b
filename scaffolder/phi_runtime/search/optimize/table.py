"""The results of all candidates: gen-model/optimize/candidates.json, which later calls reuse."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from phi_runtime.config.schema import Constraints
from phi_runtime.core.artifacts import read_json
from phi_runtime.search.optimize.constraints import ConstraintVerdict, check_constraints

FILE = "candidates.json"
State = Literal["measured", "built", "failed", "skipped"]
_KEYS = ("name", "options", "provider", "key", "state", "why", "fix", "expected_size_mb", "wall_s")
FIGURES = (
    "size_mb",
    "score",
    "accuracy_drop",
    "accuracy_drop_interval",
    "lost",
    "gained",
    "rows",
    "perplexity",
    "prefill_tokens_per_s",
    "decode_tokens_per_s",
    "peak_memory_mb",
    "context_tokens",
    "metrics",
)


@dataclass(frozen=True)
class CandidateRow:
    """The result of one candidate.

    Attributes:
        state: measured: all figures are known; built: only the size is, because it cannot run here;
            failed: it was not built, failed the gate of its pass, or did not run; skipped: not tried.
        figures: Measured values (see FIGURES); `score` is the task's main metric.
        why: The reason for a state other than measured; `fix` what to do about it.
    """

    name: str
    options: dict[str, Any]
    provider: str
    key: str
    state: State
    why: str = ""
    expected_size_mb: float | None = None
    figures: Mapping[str, Any] = field(default_factory=dict)
    wall_s: float = 0.0
    fix: str = ""

    def verdict(self, constraints: Constraints) -> ConstraintVerdict:
        return check_constraints(self.figures, constraints)

    def meets(self, constraints: Constraints, unavailable: str) -> bool:
        """Return True if all constraints are met.

        If models cannot run here (`unavailable` says why), unknown figures do not count.
        """
        verdict = self.verdict(constraints)
        if self.state == "built":
            return bool(unavailable) and not verdict.violations
        return self.state == "measured" and not verdict.violations and not verdict.unknown

    def as_dict(self) -> dict[str, Any]:
        return {
            **{name: getattr(self, name) for name in _KEYS},
            **{name: self.figures.get(name) for name in FIGURES},
        }

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> CandidateRow:
        figures = {name: value[name] for name in FIGURES if value.get(name) is not None}
        return cls(**{name: value[name] for name in _KEYS}, figures=figures)


@dataclass
class CandidateTable:
    """The known results.

    Attributes:
        inputs_key: Digest of the inputs that all results share.
        rows: Results by their own keys.
        reference: Figures of the full-precision model.
    """

    inputs_key: str = ""
    rows: dict[str, CandidateRow] = field(default_factory=dict)
    reference: dict[str, Any] | None = None

    @classmethod
    def read(cls, folder: Path) -> CandidateTable:
        """Return the table of earlier calls; an empty one if there is none that can be read."""
        try:
            content = read_json(folder / FILE)
            rows = [CandidateRow.from_dict(row) for row in (*content["candidates"], *content["earlier"])]
            known = {row.key: row for row in rows if row.state != "skipped"}
            return cls(content["inputs_key"], known, content["reference"])
        except (OSError, ValueError, KeyError, TypeError):
            return cls()

    def for_inputs(self, inputs_key: str) -> CandidateTable:
        """Return this table if it has these inputs, else an empty one for them."""
        return self if self.inputs_key == inputs_key else CandidateTable(inputs_key)
