"""What a search came to: the table, and the config with the options that were chosen."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from phi_runtime.config.dialects.draft import Draft
from phi_runtime.config.dialects.migrate import canonical_text
from phi_runtime.config.overrides import Overrides
from phi_runtime.config.parse import parse_config
from phi_runtime.config.reading.source import read_source
from phi_runtime.config.schema import canonical
from phi_runtime.core.artifacts import free_name, replace_unless_edited, write_text
from phi_runtime.pipeline.load import load_workflow
from phi_runtime.search.optimize.candidates import Candidate
from phi_runtime.search.optimize.constraints import Verdict, nearest
from phi_runtime.search.optimize.planning import OptimizePlan
from phi_runtime.search.optimize.table import FILE, CandidateRow
from phi_runtime.search.optimize.targets import values_for


@dataclass(frozen=True)
class OptimizeResult:
    """The end of a search. `candidates` are in the order of the plan, `earlier` what is known of others on the same inputs (which
    `inputs` names), `reference` the figures of the full-precision model. `config` is the config with the chosen options beside the
    project's own (`written` its digest, `kept` what a user had made of an earlier one), `model` the chosen model where it is still
    there; `backup` the project's config of before, where it was changed."""

    plan: OptimizePlan
    candidates: list[CandidateRow]
    earlier: list[CandidateRow]
    inputs: str
    reference: dict[str, Any] | None
    chosen: str | None
    written: str = ""
    config: Path | None = None
    kept: Path | None = None
    model: Path | None = None
    applied: bool = False
    backup: Path | None = None

    @property
    def nearest(self) -> tuple[CandidateRow, Verdict] | None:
        """Of candidates that ran and do not hold, the one that misses least; None where one is chosen, or none ran."""
        if self.chosen:
            return None
        ran = {row.name: row for row in self.candidates if row.state in ("measured", "built")}
        verdicts = {name: row.verdict(self.plan.constraints) for name, row in ran.items()}
        name = nearest({name: verdict for name, verdict in verdicts.items() if verdict.misses})
        return (ran[name], verdicts[name]) if name else None

    def as_dict(self) -> dict[str, Any]:
        """As `optimize --json` prints it."""
        plan, project = self.plan, self.plan.project
        near = self.nearest
        return {
            "pass": plan.setting.stage,
            "source": plan.source_name,
            "target": plan.target.name,
            "lacking": plan.lacking,
            "note": plan.target.note,
            "constraints": canonical(plan.constraints),
            "context_tokens": plan.setting.tokens,
            "metric": (self.reference or {}).get("metric"),
            "rows": (self.reference or {}).get("rows"),
            "reference": self.reference,
            "candidates": [self._row(row) for row in self.candidates],
            "earlier": [row.as_dict() for row in self.earlier],
            "chosen": self.chosen,
            "nearest": _near(*near) if near else None,
            "config": project.shown(self.config) if self.config else None,
            "kept": project.shown(self.kept) if self.kept else None,
            "model": project.shown(self.model) if self.model else None,
            "applied": self.applied,
            "backup": project.shown(self.backup) if self.backup else None,
        }

    def _row(self, row: CandidateRow) -> dict[str, Any]:
        verdict = row.verdict(self.plan.constraints)
        return {
            **row.as_dict(),
            "holds": row.holds(self.plan.constraints, self.plan.lacking),
            "misses": [miss.as_dict() for miss in verdict.misses],
            "not_measured": list(verdict.unknown),
        }

    def write(self) -> None:
        """Keeps the table for later calls and for people."""
        self.plan.folder.mkdir(parents=True, exist_ok=True)
        file = self.plan.folder / FILE
        text = (
            json.dumps({**self.as_dict(), "inputs": self.inputs, "written": self.written}, indent=2, ensure_ascii=False)
            + "\n"
        )
        if not file.is_file() or file.read_text(encoding="utf-8") != text:
            write_text(file, text)


def _near(row: CandidateRow, verdict: Verdict) -> dict[str, Any]:
    loosen = {miss.constraint: miss.loosened for miss in verdict.misses}
    return {"candidate": row.name, "misses": [miss.as_dict() for miss in verdict.misses], "loosen": loosen}


# -- the config --------------------------------------------------------------------------------------------------------------------


def write_best(plan: OptimizePlan, chosen: Candidate, written: str) -> tuple[Path, Path | None]:
    """The config with the chosen options, beside the project's own, where its relative paths hold. What a user has made of an earlier
    one, whose digest was `written`, is kept under another name, which is returned too."""
    config = plan.project.config
    target = config.with_name(f"{config.stem}.optimized.json")
    return target, replace_unless_edited(target, canonical_text(_changed(plan, chosen), target), written)


def apply_options(plan: OptimizePlan, chosen: Candidate) -> Path | None:
    """Writes the chosen options into the project's config. Returns where that of before is kept; None where nothing changes."""
    config = plan.project.config
    source = read_source(config)
    before, after = (parse_config(source, Overrides(values=values)).workflow for values in ({}, _values(plan, chosen)))
    assert before is not None
    assert after is not None
    if canonical(before) == canonical(after):
        return None
    backup = free_name(config)
    shutil.copy2(config, backup)
    write_text(config, canonical_text(_changed(plan, chosen), config))
    return backup


def _values(plan: OptimizePlan, chosen: Candidate) -> dict[str, Any]:
    """What is put into the config, by dotted path. Flags such as --on local are not: they are given again."""
    before = load_workflow(plan.project.config, replace(plan.overrides, on_local=False))
    return {**values_for(plan.target, before), **chosen.values(plan.setting.stage)}


def _changed(plan: OptimizePlan, chosen: Candidate) -> Draft:
    """The project's config with the chosen options; those that are left to the builder are not written."""
    draft = parse_config(read_source(plan.project.config), Overrides(values=_values(plan, chosen))).draft
    step = draft.value["passes"][plan.setting.stage]
    for key in [key for key, value in chosen.options.items() if value is None]:
        *outer, name = key.split(".")
        (step[outer[0]] if outer else step).pop(name, None)
    if not step.get("extra_options", True):
        del step["extra_options"]
    return draft
