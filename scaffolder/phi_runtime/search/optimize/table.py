"""The table of candidates: gen-model/optimize/candidates.json, which also is what later calls know already."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from phi_runtime.config.schema import Constraints
from phi_runtime.search.optimize.constraints import Verdict, judge

FILE = "candidates.json"
State = Literal["measured", "built", "failed", "skipped"]
FIGURES = (
    "size_mb",
    "score",
    "accuracy_drop",
    "perplexity",
    "prefill_tokens_per_s",
    "decode_tokens_per_s",
    "peak_memory_mb",
    "context_tokens",
    "metrics",
)


@dataclass(frozen=True)
class CandidateRow:
    """One candidate. measured: all figures are known; built: its size alone, since it cannot run here; failed: it was not built, did
    not pass the gate of its pass or did not run, `why` says which and `fix` what to do; skipped: it was not tried. `score` is the
    task's first metric."""

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

    def verdict(self, constraints: Constraints) -> Verdict:
        return judge(self.figures, constraints)

    def holds(self, constraints: Constraints, lacking: str) -> bool:
        """Whether all constraints are kept; where models cannot run here (`lacking`), those that can be told."""
        verdict = self.verdict(constraints)
        if self.state == "built":
            return bool(lacking) and not verdict.misses
        return self.state == "measured" and not verdict.misses and not verdict.unknown

    def as_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "options": self.options,
            "provider": self.provider,
            "state": self.state,
            "why": self.why,
            "fix": self.fix,
            "expected_size_mb": self.expected_size_mb,
            **{name: self.figures.get(name) for name in FIGURES},
            "wall_s": self.wall_s,
            "key": self.key,
        }

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> CandidateRow:
        figures = {name: value[name] for name in FIGURES if value.get(name) is not None}
        names = ("name", "options", "provider", "key", "state", "why", "fix", "expected_size_mb", "wall_s")
        return cls(**{name: value[name] for name in names}, figures=figures)


@dataclass
class CandidateTable:
    """What is known: `rows` by key, the figures of the full-precision model, and as `shared` the inputs that they have in common.
    `written` is the digest of the config that was written last."""

    shared: str = ""
    rows: dict[str, CandidateRow] = field(default_factory=dict)
    reference: dict[str, Any] | None = None
    written: str = ""

    @classmethod
    def read(cls, folder: Path) -> CandidateTable:
        """The table of earlier calls; an empty one where there is none that can be read."""
        try:
            content = json.loads((folder / FILE).read_text(encoding="utf-8"))
            rows = [CandidateRow.from_dict(row) for row in (*content["candidates"], *content["earlier"])]
            return cls(
                content["inputs"], {row.key: row for row in rows if row.state != "skipped"}, content["reference"]
            )
        except (OSError, ValueError, KeyError, TypeError):
            return cls()

    def fitting(self, shared: str) -> CandidateTable:
        """Itself where it is of these inputs, else an empty one for them."""
        return self if self.shared == shared else CandidateTable(shared, written=self.written)
