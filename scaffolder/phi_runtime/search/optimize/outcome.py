"""The result of a search: the table, and the config with the chosen options."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from phi_runtime.config.dialects.draft import Draft
from phi_runtime.config.dialects.migrate import canonical_text
from phi_runtime.config.overrides import Overrides
from phi_runtime.config.parse import parse_config
from phi_runtime.config.schema import canonical
from phi_runtime.core.artifacts import WRITTEN, free_name, replace_unless_edited, write_text
from phi_runtime.search.optimize.candidates import Candidate
from phi_runtime.search.optimize.constraints import ConstraintVerdict, nearest
from phi_runtime.search.optimize.planning import OptimizePlan
from phi_runtime.search.optimize.table import FILE, CandidateRow


@dataclass(frozen=True)
class OptimizeResult:
    """The result of a search.

    Attributes:
        candidates: Results in the order of the plan.
        earlier: Known results of other candidates for the same inputs.
        inputs_key: Digest of these inputs.
        reference: Figures of the full-precision model.
        config: The config with the chosen options, next to the project's own.
        previous_config: The user's edited version of an earlier one, under its new name.
        model: The chosen model, if it still exists.
        outdated_training: The int4-aware training that the next run repeats with the chosen options.
        backup: The project's config before `applied` changed it.
    """

    plan: OptimizePlan
    candidates: list[CandidateRow]
    earlier: list[CandidateRow]
    inputs_key: str
    reference: dict[str, Any] | None
    chosen: str | None
    config: Path | None = None
    previous_config: Path | None = None
    model: Path | None = None
    outdated_training: str | None = None
    applied: bool = False
    backup: Path | None = None

    @property
    def nearest(self) -> tuple[CandidateRow, ConstraintVerdict] | None:
        """The candidate that violates least; None if one is chosen or none ran."""
        if self.chosen:
            return None
        ran = {row.name: row for row in self.candidates if row.state in ("measured", "built")}
        verdicts = {name: row.verdict(self.plan.constraints) for name, row in ran.items()}
        name = nearest({name: verdict for name, verdict in verdicts.items() if verdict.violations})
        return (ran[name], verdicts[name]) if name else None

    def as_dict(self) -> dict[str, Any]:
        """Return the output of `optimize --json` (docs/json.md)."""
        plan, project = self.plan, self.plan.project

        def shown(path: Path | None) -> str | None:
            return project.shown(path) if path else None

        return {
            "pass": plan.settings.stage,
            "source": plan.source_name,
            "target": plan.target.name,
            "unavailable": plan.unavailable,
            "note": plan.target.note,
            "constraints": canonical(plan.constraints),
            "context_tokens": plan.settings.tokens,
            "metric": (self.reference or {}).get("metric"),
            "rows": (self.reference or {}).get("rows"),
            "reference": self.reference,
            "candidates": [self._candidate(row) for row in self.candidates],
            "earlier": [row.as_dict() for row in self.earlier],
            "chosen": self.chosen,
            "nearest": _nearest_to_json(*self.nearest) if self.nearest else None,
            "config": shown(self.config),
            "previous_config": shown(self.previous_config),
            "model": shown(self.model),
            "outdated_training": self.outdated_training,
            "applied": self.applied,
            "backup": shown(self.backup),
        }

    def _candidate(self, row: CandidateRow) -> dict[str, Any]:
        verdict = row.verdict(self.plan.constraints)
        return {
            **row.as_dict(),
            "meets_constraints": row.meets(self.plan.constraints, self.plan.unavailable),
            "violations": [violation.as_dict() for violation in verdict.violations],
            "not_measured": list(verdict.unknown),
        }

    def write(self) -> None:
        """Write the table for later calls and for people."""
        self.plan.folder.mkdir(parents=True, exist_ok=True)
        file = self.plan.folder / FILE
        content = {**self.as_dict(), "inputs_key": self.inputs_key}
        text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
        if not file.is_file() or file.read_text(encoding="utf-8") != text:
            write_text(file, text)


def _nearest_to_json(row: CandidateRow, verdict: ConstraintVerdict) -> dict[str, Any]:
    return {
        "candidate": row.name,
        "violations": [violation.as_dict() for violation in verdict.violations],
        "relaxed_constraints": {violation.constraint: violation.relaxed_limit for violation in verdict.violations},
    }


# -- the config --------------------------------------------------------------------------------------------------------


def write_best(plan: OptimizePlan, chosen: Candidate) -> tuple[Path, Path | None]:
    """Write the config with the chosen options next to the project's own, so that relative paths stay valid.

    An earlier one that the user has edited is kept under another name.

    Returns:
        The path of the config, and that of the kept one, if any.
    """
    config = plan.project.config
    target = config.with_name(f"{config.stem}.optimized.json")
    return target, replace_unless_edited(target, canonical_text(_changed(plan, chosen), target), plan.folder / WRITTEN)


def apply_options(plan: OptimizePlan, chosen: Candidate) -> Path | None:
    """Write the chosen options into the project's config.

    Returns:
        The backup of the previous config; None if nothing changes.
    """
    config = plan.project.config
    overrides = (Overrides(values=values) for values in ({}, plan.config_values(chosen)))
    previous, changed = (parse_config(plan.config.source, each).workflow for each in overrides)
    assert previous is not None
    assert changed is not None
    if canonical(previous) == canonical(changed):
        return None
    backup = free_name(config)
    shutil.copy2(config, backup)
    write_text(config, canonical_text(_changed(plan, chosen), config))
    return backup


def _changed(plan: OptimizePlan, chosen: Candidate) -> Draft:
    """Return the project's config with the chosen options, without those that are left to the builder."""
    draft = parse_config(plan.config.source, Overrides(values=plan.config_values(chosen))).draft
    step = draft.value["passes"][plan.settings.stage]
    for key in [key for key, value in chosen.options.items() if value is None]:
        *outer, name = key.split(".")
        (step[outer[0]] if outer else step).pop(name, None)
    if not step.get("extra_options", True):
        del step["extra_options"]
    return draft
