"""Sidecar files of a config: evaluation.json and sweep.yaml, with the keys that Olive would reject in the config."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel

from phi_runtime.config.diagnostics import Finding, warning
from phi_runtime.config.dialects.draft import Draft
from phi_runtime.config.parse import EVALUATION, SWEEP, SWEEP_IN_CONFIG, ParsedFile, parse_sidecar
from phi_runtime.config.reading.source import KeyPath, read_source
from phi_runtime.config.schema import Evaluation, Sweep
from phi_runtime.core.project import CONFIG

M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True)
class Sidecars:
    """The evaluation and the sweep of a config.

    `evaluation_draft` locates the evaluation; `sweep_draft` and `sweep_path` locate the sweep, which may be in the config itself.
    """

    evaluation: Evaluation | None
    evaluation_draft: Draft | None
    sweep: Sweep | None
    sweep_draft: Draft
    sweep_path: KeyPath
    findings: list[Finding]


def join_sidecars(path: Path, config: ParsedFile, search: Path | None = None) -> Sidecars:
    """Read and validate the sidecar files of the config at `path`; `search` replaces the search of the config."""
    evaluation, draft, findings = _read(sidecar_path(path, EVALUATION), Evaluation)
    if evaluation and draft and config.workflow:
        findings += _unknown_passes(evaluation, draft, list(config.workflow.trainings))
    if "sweep" in config.value and search is None:
        return Sidecars(evaluation, draft, config.sweep, config.draft, SWEEP_IN_CONFIG, findings)
    sweep, sweep_draft, sweep_findings = _read(search or sidecar_path(path, SWEEP), Sweep)
    return Sidecars(evaluation, draft, sweep, sweep_draft or config.draft, (), findings + sweep_findings)


def sidecar_path(config: Path, file: str) -> Path:
    """Return the path of a config's sidecar: NAME.`file` for NAME.olive-config.json if it exists, else `file`.

    NAME.olive-config.best.json (written by `sweep`) and NAME.olive-config.optimized.json (written by `optimize`) share the
    sidecar files of the config that they come from.
    """
    name = config.name.replace(".best.json", ".json").replace(".optimized.json", ".json")
    own = config.with_name(name.removesuffix(CONFIG.name) + file)
    return own if name.endswith(CONFIG.name) and own.is_file() else config.with_name(file)


def _read(path: Path, model: type[M]) -> tuple[M | None, Draft | None, list[Finding]]:
    if not path.is_file():
        return None, None, []
    return parse_sidecar(read_source(path), model)


def _unknown_passes(evaluation: Evaluation, draft: Draft, known: list[str]) -> list[Finding]:
    """Return warnings only: another config may share this file and have those passes."""

    def finding(name: str) -> Finding:
        message = f"no training pass is called `{name}` (training passes: {', '.join(known) or 'none'})"
        return warning(draft.source, ("passes", name), "unknown-reference", message)

    return [finding(name) for name in evaluation.passes if name not in known]
