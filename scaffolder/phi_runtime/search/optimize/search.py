"""The search: candidates are built and measured, cheapest first, until one holds all constraints."""

from __future__ import annotations

import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from phi_runtime.config.pass_graph import BASE
from phi_runtime.config.stage_names import FETCH
from phi_runtime.core.artifacts import digest, folder_bytes, put_in_place, read_manifest
from phi_runtime.core.errors import ConfigError, Interrupted, WorkFailed
from phi_runtime.core.events import Emit, Event
from phi_runtime.core.locks import exclusive
from phi_runtime.core.signals import handled_by, interrupt
from phi_runtime.pipeline.engine import run
from phi_runtime.pipeline.plan import LOCK
from phi_runtime.pipeline.stage import Stage
from phi_runtime.search.optimize.candidates import Candidate
from phi_runtime.search.optimize.outcome import OptimizeResult, apply_options, write_best
from phi_runtime.search.optimize.planning import OptimizePlan, why_refused
from phi_runtime.search.optimize.table import FIGURES, CandidateRow, CandidateTable
from phi_runtime.search.optimize.task import ONNX, CandidateTask
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
    """Tries the candidates of `plan` until one holds, or `everything`; first makes what they are built from, as a run would.

    What earlier calls found is taken from the table, unless `force`. `keep` leaves the models of all candidates where they are; else
    only that of the chosen one stays, which `apply` puts into the place of the pass's own, with its options in the config.

    Raises Interrupted when it was stopped (the next call goes on), Conflict when another run is at work in the project, and
    whatever befalls any candidate. That none holds is a result.
    """
    project = plan.project
    run(project, emit, only=[FETCH if plan.source == BASE else plan.source], overrides=plan.overrides)
    with exclusive(project.gen_model / LOCK), handled_by(interrupt):
        searching = _Search(plan, emit, keep=keep, force=force)
        try:
            searching.all(everything=everything)
            return searching.conclude(apply=apply)
        except KeyboardInterrupt:
            raise Interrupted(
                f"stopped after {len(searching.rows)} of {len(plan.candidates)} candidates",
                fix="`phi-scaffold optimize` goes on with the others",
            ) from None


class _Search:
    """The state of a search. `rows` are those of the candidates so far, in order."""

    def __init__(self, plan: OptimizePlan, emit: Emit, *, keep: bool, force: bool) -> None:
        self.plan, self.emit, self.keep = plan, emit, keep
        self.rows: list[CandidateRow] = []
        self.chosen: Candidate | None = None
        self.told: set[str] = set()
        self.stages = {candidate.name: self._stage_of(candidate) for candidate in plan.candidates}
        self.shared = digest(plan.inputs(self._source_key()))
        self.table = CandidateTable.read(plan.folder).fitting(self.shared)
        if force:
            own = {candidate.name for candidate in plan.candidates}
            self.table.rows = {k: r for k, r in self.table.rows.items() if not self._is_mine(r, own)}
            self.table.reference = None

    def _stage_of(self, candidate: Candidate) -> Stage | str:
        """The stage of the pass with `candidate`, or why the config does not allow it."""
        try:
            return self.plan.stage_of(candidate)
        except ConfigError as e:
            return why_refused(e)

    def _source_key(self) -> str:
        """The key of the model that is built from. Raises ConfigError where the config allows no candidate."""
        keys = [str(stage.inputs["input"]) for stage in self.stages.values() if isinstance(stage, Stage)]
        return keys[0] if keys else str(self.plan.stage_of(self.plan.candidates[0]).inputs["input"])

    def _is_mine(self, row: CandidateRow, names: set[str]) -> bool:
        return row.name in names and row.provider == self.plan.target.provider

    # -- all candidates --------------------------------------------------------------------------------------------------

    def all(self, *, everything: bool) -> None:
        if self.plan.measures_accuracy and self.table.reference is None:
            self.table.reference = self.measured_source()
        for number, candidate in enumerate(self.plan.candidates):
            if self.chosen and not everything:
                row = self.known(candidate) or self.skipped(candidate, f"`{self.chosen.name}` holds already")
            else:
                row = self.tried(candidate, number, everything=everything)
            self.rows.append(row)
            if self.chosen is None and row.holds(self.plan.constraints, self.plan.lacking):
                self.chosen = candidate
            if candidate is not self.chosen:
                self.clear(candidate)

    def tried(self, candidate: Candidate, number: int, *, everything: bool) -> CandidateRow:
        """What is known of `candidate`, or what comes of building and measuring it. The first is always tried: whoever allows too
        little learns by how much."""
        if known := self.known(candidate):
            return known
        if number and not everything and self.plan.too_large(candidate):
            return self.skipped(candidate, "expected to be larger than allowed")
        started, count = time.monotonic(), len(self.plan.candidates)
        data = {"index": number + 1, "count": count, "options": candidate.written}
        self.emit(Event("stage-started", candidate.name, data))
        stage = self.stages[candidate.name]
        if isinstance(stage, str):
            row = self.row(candidate, "", "failed", f"the config does not allow it: {stage}")
        else:
            key = self.plan.key_of(stage, self.shared)
            try:
                row = self.made(candidate, stage, key)
            except CandidateFailed as e:
                row = replace(self.row(candidate, key, "failed", e.what), fix=e.fix)
        row = replace(row, wall_s=round(time.monotonic() - started, 2))
        if row.key:
            self.table.rows[row.key] = row
            self.found().write()  # whatever happens now, this is known
        misses = [miss.as_dict() for miss in row.verdict(self.plan.constraints).misses]
        done: dict[str, Any] = {"state": row.state, "row": row.as_dict(), "output": "", "wall_s": row.wall_s}
        done |= {"holds": row.holds(self.plan.constraints, self.plan.lacking), "misses": misses}
        self.emit(Event("stage-finished", candidate.name, done))
        return row

    def made(self, candidate: Candidate, stage: Stage, key: str) -> CandidateRow:
        """Builds `candidate` unless it is there, and measures it. Raises CandidateFailed."""
        model = self.built(candidate, stage)
        figures: dict[str, Any] = {"size_mb": round(folder_bytes(model) / 1e6, 2)}
        if self.plan.lacking:
            return self.row(candidate, key, "built", f"not run: {self.plan.lacking}", figures)
        self.say(candidate.name, "measuring")
        task = CandidateTask(
            "measure", candidate.name, self.plan.overrides_for(candidate), self.plan.folder_of(candidate), model
        )
        figures |= work_apart(self.plan.setting, task, self.named(candidate.name))
        figures |= {"accuracy_drop": accuracy_drop(self.table.reference, figures)}
        return self.row(candidate, key, "measured", "", figures)

    def built(self, candidate: Candidate, stage: Stage) -> Path:
        """The model of `candidate`: what an interrupted call left, the pass's own where it is the same, or a new one."""
        folder = self.plan.folder_of(candidate)
        for place in (folder / ONNX, stage.target):
            if _is_of(place, stage):
                return place
        self.say(candidate.name, "building")
        task = CandidateTask("build", candidate.name, self.plan.overrides_for(candidate), folder)
        work_apart(self.plan.setting, task, self.named(candidate.name))
        return folder / ONNX

    def measured_source(self) -> dict[str, Any]:
        """The figures of the full-precision model, which no candidate's need be compared without."""
        name = self.plan.source_name
        self.emit(Event("stage-started", name, {"index": 0, "count": len(self.plan.candidates), "options": {}}))
        self.say(name, "measuring the model in full precision")
        started = time.monotonic()
        candidate = self.plan.candidates[0]  # whose options change nothing of it
        task = CandidateTask("source", name, self.plan.overrides_for(candidate), self.plan.folder / SOURCE)
        try:
            found = work_apart(self.plan.setting, task, self.named(name))
        except CandidateFailed as e:
            raise WorkFailed(f"the full-precision model `{name}` cannot be measured: {e.what}", fix=e.fix) from None
        wall_s = round(time.monotonic() - started, 2)
        self.emit(Event("stage-finished", name, {"state": "done", "row": found, "output": "", "wall_s": wall_s}))
        return {"name": name, **found}

    # -- rows ------------------------------------------------------------------------------------------------------------

    def known(self, candidate: Candidate) -> CandidateRow | None:
        """What an earlier call found of `candidate`."""
        stage = self.stages[candidate.name]
        return self.table.rows.get(self.plan.key_of(stage, self.shared)) if isinstance(stage, Stage) else None

    def skipped(self, candidate: Candidate, why: str) -> CandidateRow:
        return self.row(candidate, "", "skipped", f"not tried: {why}")

    def row(
        self,
        candidate: Candidate,
        key: str,
        state: Literal["measured", "built", "failed", "skipped"],
        why: str,
        figures: dict[str, Any] | None = None,
    ) -> CandidateRow:
        expected = self.plan.expected_mb(candidate)
        provider = self.plan.target.provider
        known = {name: figures[name] for name in FIGURES if figures.get(name) is not None} if figures else {}
        return CandidateRow(candidate.name, candidate.written, provider, key, state, why, expected, known)

    def say(self, name: str, message: str) -> None:
        self.emit(Event("progress", name, {"done": None, "total": None, "unit": "", "message": message}))

    def named(self, name: str) -> Emit:
        """Passes on what the other process tells, in the candidate's name; a warning of several of them once."""

        def emit(event: Event) -> None:
            if event.event == "warning":
                if event.data["message"] in self.told:
                    return
                self.told.add(event.data["message"])
            self.emit(replace(event, stage=name))

        return emit

    def clear(self, candidate: Candidate) -> None:
        """Removes a model that is not wanted any more. Its figures and its record stay."""
        if not self.keep:
            for name in (ONNX, ".work"):
                shutil.rmtree(self.plan.folder_of(candidate) / name, ignore_errors=True)

    # -- the end ---------------------------------------------------------------------------------------------------------

    def found(self) -> OptimizeResult:
        later = self.plan.candidates[len(self.rows) :]
        rows = [
            *self.rows,
            *(self.known(candidate) or self.skipped(candidate, "stopped before") for candidate in later),
        ]
        keys = {row.key for row in rows}
        earlier = [row for key, row in self.table.rows.items() if key not in keys]
        chosen = self.chosen.name if self.chosen else None
        return OptimizeResult(self.plan, rows, earlier, self.shared, self.table.reference, chosen, self.table.written)

    def conclude(self, *, apply: bool) -> OptimizeResult:
        """Keeps the table, and puts the chosen options and model to where they are wanted."""
        found = self.found()
        if self.chosen is not None:
            config, kept = write_best(self.plan, self.chosen, self.table.written)
            found = replace(found, config=config, kept=kept, written=digest(config.read_text(encoding="utf-8")))
            stage = self.stages[self.chosen.name]
            assert isinstance(stage, Stage)
            if apply:
                model = self.built(self.chosen, stage)
                backup = apply_options(self.plan, self.chosen)
                if model != stage.target:
                    put_in_place(model, stage.target)
                found = replace(found, applied=True, backup=backup)
            places = (self.plan.folder_of(self.chosen) / ONNX, stage.target)
            found = replace(found, model=next((place for place in places if _is_of(place, stage)), None))
        found.write()
        return found


def _is_of(place: Path, stage: Stage) -> bool:
    """Whether the model in `place` is the one that `stage` makes."""
    manifest = read_manifest(place)
    return manifest is not None and manifest.key == stage.key


def accuracy_drop(reference: dict[str, Any] | None, figures: dict[str, Any]) -> float | None:
    """By how much the first metric is lower than that of the full-precision model; less than 0: it is higher. Free text has none:
    there, by which share the mean (geometric) probability of a token is lower, from the perplexities. None where nothing tells."""
    before, now = (reference or {}).get("score"), figures.get("score")
    if before is None or now is None:
        return None
    return round(1 - before / now if figures["metric"] == "perplexity" else before - now, 4)
