"""The search: build and measure candidates, cheapest first, until one meets all constraints."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from phi_runtime.config.pass_graph import BASE
from phi_runtime.config.stage_names import FETCH
from phi_runtime.core.artifacts import Manifest, delete_folder, digest, folder_bytes, put_in_place, read_manifest
from phi_runtime.core.errors import ConfigError, Interrupted, Location, WorkFailed
from phi_runtime.core.events import Emit, Event, progress_message, warnings_once
from phi_runtime.core.locks import exclusive
from phi_runtime.core.signals import handled_by, interrupt
from phi_runtime.evaluation.row_results import ROWS, read_rows
from phi_runtime.pipeline.artifact import finish_stage
from phi_runtime.pipeline.engine import run
from phi_runtime.pipeline.stage import Stage
from phi_runtime.search.optimize.accuracy import accuracy_drop, smallest_drop
from phi_runtime.search.optimize.candidates import Candidate
from phi_runtime.search.optimize.constraints import DROP, flag, limits_accuracy
from phi_runtime.search.optimize.outcome import OptimizeResult, apply_options, write_best
from phi_runtime.search.optimize.planning import OptimizePlan, why_refused
from phi_runtime.search.optimize.table import FIGURES, CandidateRow, CandidateTable, State
from phi_runtime.search.optimize.task import ONNX, WORK, CandidateTask
from phi_runtime.search.optimize.worker import CandidateFailed, work_apart

SOURCE = "source"


def optimize(
    plan: OptimizePlan,
    emit: Emit,
    *,
    everything: bool = False,
    keep: bool = False,
    force: bool = False,
    apply: bool = False,
) -> OptimizeResult:
    """Try the candidates of `plan` until one meets the constraints; first run the stages that it is built from.

    No candidate meeting the constraints is a result, not an error.

    Args:
        everything: Try all candidates.
        keep: Keep the models of all candidates, not only the chosen one.
        force: Ignore the results of earlier calls.
        apply: Write the chosen options into the config, and replace the model of the pass by the chosen one.

    Raises:
        Interrupted: The search was stopped; the next call resumes.
        Conflict: Another run is active in the project.
        PhiError: A failure that any candidate would meet.
    """
    project = plan.project
    run(project, emit, config=plan.config, only=[FETCH if plan.source == BASE else plan.source])
    with exclusive(project.run_lock), handled_by(interrupt):
        searching = _OptimizeSearch(plan, emit, keep=keep, force=force)
        try:
            searching.run(everything=everything)
            return searching.conclude(apply=apply)
        except KeyboardInterrupt:
            raise Interrupted(
                f"stopped after {len(searching.rows)} of {len(plan.candidates)} candidates",
                fix="`phi-scaffold optimize` resumes with the others",
            ) from None


class _OptimizeSearch:
    """The state of a search: `rows` are the results so far, in the order of the candidates."""

    def __init__(self, plan: OptimizePlan, emit: Emit, *, keep: bool, force: bool) -> None:
        self.plan, self.emit, self.keep = plan, warnings_once(emit), keep
        self.rows: list[CandidateRow] = []
        self.chosen: Candidate | None = None
        self.source_rows = plan.folder / SOURCE / ROWS
        self.stages = plan.stages()
        self.inputs_key = digest(plan.inputs(self._source_key()))
        self.table = CandidateTable.read(plan.folder).for_inputs(self.inputs_key)
        if force:
            names, provider = {candidate.name for candidate in plan.candidates}, plan.target.provider
            rows = self.table.rows.items()
            self.table.rows = {k: r for k, r in rows if not (r.name in names and r.provider == provider)}
            self.table.reference = None

    def _source_key(self) -> str:
        """Return the key of the source model. Raises ConfigError if the config allows no candidate."""
        stages = [stage for stage in self.stages.values() if isinstance(stage, Stage)]
        if not stages:
            raise next(stage for stage in self.stages.values() if isinstance(stage, ConfigError))
        return str(stages[0].inputs["input"])

    # -- candidates ----------------------------------------------------------------------------------------------------

    def run(self, *, everything: bool) -> None:
        if self.plan.measures_accuracy:
            if self.table.reference is None or not self.source_rows.is_file():
                self.table.reference = self.measure_source()
            if limits_accuracy(self.plan.constraints) and not everything:
                self.require_rows()
        for number, candidate in enumerate(self.plan.candidates):
            if self.chosen and not everything:
                why = f"`{self.chosen.name}` already meets the constraints"
                row = self.known(candidate) or self.skipped(candidate, why)
            else:
                row = self.evaluate(candidate, number, everything=everything)
            self.rows.append(row)
            if self.chosen is None and row.meets(self.plan.constraints, self.plan.unavailable):
                self.chosen = candidate
            if candidate is not self.chosen:
                self.remove_model(candidate)

    def evaluate(self, candidate: Candidate, number: int, *, everything: bool) -> CandidateRow:
        """Return the known result of `candidate`, or build and measure it.

        The first candidate is always tried, so that a limit that none meets comes with a measured figure.
        """
        if known := self.known(candidate):
            return known
        if number and not everything and self.plan.too_large(candidate):
            return self.skipped(candidate, "expected to be larger than allowed")
        started, count = time.monotonic(), len(self.plan.candidates)
        data = {"index": number + 1, "count": count, "options": candidate.written}
        self.emit(Event("stage-started", candidate.name, data))
        stage = self.stages[candidate.name]
        if isinstance(stage, ConfigError):
            row = self.row(candidate, "", "failed", f"the config does not allow it: {why_refused(stage)}")
        else:
            key = self.plan.key_of(stage, self.inputs_key)
            try:
                row = self.build_and_measure(candidate, stage, key)
            except CandidateFailed as e:
                row = replace(self.row(candidate, key, "failed", e.what), fix=e.fix)
        row = replace(row, wall_s=round(time.monotonic() - started, 2))
        if row.key:
            self.table.rows[row.key] = row
            self.result().write()  # survives an interruption of the later candidates
        data = {
            "state": row.state,
            "result": row.as_dict(),
            "output": "",
            "wall_s": row.wall_s,
            "meets_constraints": row.meets(self.plan.constraints, self.plan.unavailable),
            "violations": [v.as_dict() for v in row.verdict(self.plan.constraints).violations],
        }
        self.emit(Event("stage-finished", candidate.name, data))
        return row

    def build_and_measure(self, candidate: Candidate, stage: Stage, key: str) -> CandidateRow:
        model = self.find_or_build(candidate, stage)
        figures: dict[str, Any] = {"size_mb": round(folder_bytes(model) / 1e6, 2)}
        if self.plan.unavailable:
            return self.row(candidate, key, "built", f"not run: {self.plan.unavailable}", figures)
        self.progress(candidate.name, "measuring")
        task = CandidateTask(
            "measure", candidate.name, self.plan.overrides_for(candidate), self.plan.folder_of(candidate), model
        )
        figures |= work_apart(self.plan.settings, task, self.emit_as(candidate.name))
        if self.plan.measures_accuracy:
            rows = read_rows(self.plan.folder_of(candidate) / ROWS)
            figures |= accuracy_drop(self.plan.task, read_rows(self.source_rows), rows)
        return self.row(candidate, key, "measured", "", figures)

    def find_or_build(self, candidate: Candidate, stage: Stage) -> Path:
        """Return the model of `candidate`: from an interrupted call, from the pass itself, or newly built."""
        folder = self.plan.folder_of(candidate)
        if built := _output_of(folder / ONNX, stage):
            finish_stage(folder / ONNX, built, folder / WORK)
            return folder / ONNX
        if _output_of(stage.target, stage):
            return stage.target
        self.progress(candidate.name, "building")
        task = CandidateTask("build", candidate.name, self.plan.overrides_for(candidate), folder)
        work_apart(self.plan.settings, task, self.emit_as(candidate.name))
        return folder / ONNX

    def measure_source(self) -> dict[str, Any]:
        """Return the figures of the full-precision model, with which those of the candidates are compared."""
        name = self.plan.source_name
        self.emit(Event("stage-started", name, {"index": 0, "count": len(self.plan.candidates), "options": {}}))
        self.progress(name, "measuring the model in full precision")
        started = time.monotonic()
        overrides = self.plan.overrides_for(self.plan.candidates[0])  # its options do not affect the source
        task = CandidateTask("source", name, overrides, self.plan.folder / SOURCE)
        try:
            figures = work_apart(self.plan.settings, task, self.emit_as(name))
        except CandidateFailed as e:
            raise WorkFailed(f"measuring the full-precision model `{name}` failed: {e.what}", fix=e.fix) from None
        wall_s = round(time.monotonic() - started, 2)
        self.emit(Event("stage-finished", name, {"state": "done", "result": figures, "output": "", "wall_s": wall_s}))
        return {"name": name, **figures}

    def require_rows(self) -> None:
        """Raise ConfigError if the rows are too few for any candidate to meet the limit of accuracy."""
        limit, rows = self.plan.constraints.max_accuracy_drop, read_rows(self.source_rows)
        smallest = smallest_drop(self.plan.task, rows)
        if limit is not None and smallest > limit:
            self.result().write()  # keeps the figures of the source
            raise ConfigError(
                f"{len(rows)} rows cannot show a drop below {smallest:g}: no model meets {DROP} ({limit:g})",
                where=Location(self.plan.project.config),
                fix=f"add validation rows, or allow more: {flag(DROP, smallest)}; --all measures all candidates",
            )

    # -- rows ----------------------------------------------------------------------------------------------------------

    def known(self, candidate: Candidate) -> CandidateRow | None:
        """Return the result of an earlier call for `candidate`."""
        stage = self.stages[candidate.name]
        return self.table.rows.get(self.plan.key_of(stage, self.inputs_key)) if isinstance(stage, Stage) else None

    def skipped(self, candidate: Candidate, why: str) -> CandidateRow:
        return self.row(candidate, "", "skipped", f"not tried: {why}")

    def row(
        self, candidate: Candidate, key: str, state: State, why: str, figures: dict[str, Any] | None = None
    ) -> CandidateRow:
        known = {name: figures[name] for name in FIGURES if figures.get(name) is not None} if figures else {}
        expected, provider = self.plan.expected_mb(candidate), self.plan.target.provider
        return CandidateRow(candidate.name, candidate.written, provider, key, state, why, expected, known)

    def progress(self, name: str, message: str) -> None:
        self.emit(progress_message(name, message))

    def emit_as(self, name: str) -> Emit:
        """Return a listener that forwards events of a worker under the candidate's name."""
        return lambda event: self.emit(replace(event, stage=name))

    def remove_model(self, candidate: Candidate) -> None:
        """Remove the model of `candidate`, unless all are kept; its figures and its record stay."""
        if not self.keep:
            for name in (ONNX, WORK):
                with suppress(OSError):
                    delete_folder(self.plan.folder_of(candidate) / name)

    # -- the result ----------------------------------------------------------------------------------------------------

    def result(self) -> OptimizeResult:
        later = self.plan.candidates[len(self.rows) :]
        rows = [
            *self.rows,
            *(self.known(candidate) or self.skipped(candidate, "the search was stopped") for candidate in later),
        ]
        keys = {row.key for row in rows}
        earlier = [row for key, row in self.table.rows.items() if key not in keys]
        chosen = self.chosen.name if self.chosen else None
        return OptimizeResult(self.plan, rows, earlier, self.inputs_key, self.table.reference, chosen)

    def conclude(self, *, apply: bool) -> OptimizeResult:
        """Write the table and the config with the chosen options; with `apply`, also change the project."""
        result = self.result()
        if self.chosen is not None:
            config, previous = write_best(self.plan, self.chosen)
            outdated = self.plan.outdated_training(self.chosen)
            result = replace(result, config=config, previous_config=previous, outdated_training=outdated)
            stage = self.stages[self.chosen.name]
            assert isinstance(stage, Stage)
            if apply:
                model = self.find_or_build(self.chosen, stage)
                backup = apply_options(self.plan, self.chosen)
                if model != stage.target:
                    put_in_place(model, stage.target)
                result = replace(result, applied=True, backup=backup)
            paths = (self.plan.folder_of(self.chosen) / ONNX, stage.target)
            result = replace(result, model=next((path for path in paths if _output_of(path, stage)), None))
        result.write()
        return result


def _output_of(path: Path, stage: Stage) -> Manifest | None:
    """Return the manifest of the model in `path` if it is the output of `stage`."""
    manifest = read_manifest(path)
    return manifest if manifest and manifest.key == stage.key else None
