"""The facts of a project's report, read from the files in gen-model/: nothing is measured here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from phi_runtime.config.schema import Workflow, canonical
from phi_runtime.config.stage_names import evaluation_stages
from phi_runtime.core.artifacts import read_json_lines, read_object
from phi_runtime.core.project import ProjectFolder
from phi_runtime.core.units import energy
from phi_runtime.evaluation.row_results import RESULTS, ROWS, RowResult
from phi_runtime.models.fetch import base_name
from phi_runtime.models.place import base_model_path
from phi_runtime.pipeline.benchmarks import stored_benchmarks
from phi_runtime.pipeline.plan import plan
from phi_runtime.pipeline.run_record import last_figures
from phi_runtime.pipeline.stage import Stage
from phi_runtime.report.facts import read_facts
from phi_runtime.report.history import RecordedRun, read_runs
from phi_runtime.report.stored_ratings import stored_ratings
from phi_runtime.report.verdict import Verdict, judge
from phi_runtime.training.diagnosis import curve_statistics
from phi_runtime.training.diagnosis.run import read_loss_log

_REQUIRED = ("task", "rows", "rows_of", "total_rows", "baselines", "models")  # keys of evaluation.json


@dataclass(frozen=True)
class StageFacts:
    """A stage with the figures of the last run that executed it.

    Attributes:
        state, why: As in `status`.
        output: Folder, relative to the project.
        run: Id of that run; empty if no record has it.
        figures: Its entry in stages.json: `wall_s`, `peak_rss_bytes`, `cpu_energy_j`, `gpu_energy_j`.
        content: Digest of the output; empty without one.
        versions: Libraries that the output was built with.
    """

    name: str
    type: str
    state: str
    why: str = ""
    output: str = ""
    run: str = ""
    figures: Mapping[str, Any] = field(default_factory=dict)
    content: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)

    @property
    def energy(self) -> str:
        """The energy of its run as text; empty if it was not measured."""
        return energy(self.figures)


@dataclass(frozen=True)
class Curves:
    """The curves of a training, as (step, value) pairs.

    Attributes:
        loss, validation: Nats per token.
        best_step: Step whose weights were kept; None if those of the last step were.
        complete: False for a training that did not end, read from the record of its run.
    """

    loss: list[tuple[int, float]] = field(default_factory=list)
    validation: list[tuple[int, float]] = field(default_factory=list)
    learning_rate: list[tuple[int, float]] = field(default_factory=list)
    best_step: int | None = None
    complete: bool = True

    @property
    def lowest(self) -> tuple[int, float] | None:
        """Step and value of the lowest validation loss."""
        return min(self.validation, key=lambda point: point[1], default=None)


@dataclass(frozen=True)
class TrainingFacts:
    """A training pass and the comparison of its models.

    Attributes:
        name: Name of the pass; empty if nothing is trained.
        settings: The config of the pass that the adapter was trained with, else that of the workflow.
        results: ProjectFacts in the manifest of the trained model: steps, losses, rows, diagnosis.
        evaluation: evaluation.json; None without a comparison.
        rows: Its rows.jsonl.
        verdict: The judgment of its models.
        data: data_report.json of its rows; empty without one.
        ratings: What people say of its answers: `report --ratings --json`, of each sheet.
        benchmarks: Results of lm-evaluation-harness for its models: `benchmarks` of `evaluate --json`.
        note: Why the comparison, or a part of it, cannot be shown; empty if it is complete and up to date.
    """

    name: str
    settings: Mapping[str, Any]
    results: Mapping[str, Any]
    curves: Curves
    evaluation: dict[str, Any] | None = None
    rows: Sequence[RowResult] = ()
    data: Mapping[str, Any] = field(default_factory=dict)
    ratings: Sequence[Mapping[str, Any]] = ()
    benchmarks: Sequence[Mapping[str, Any]] = ()
    note: str = ""
    verdict: Verdict | None = None


@dataclass(frozen=True)
class ProjectFacts:
    """Everything that a report shows.

    Attributes:
        project: Name of the project's folder.
        task_name: Of `--task-name`; empty for gen-model/ itself.
        base_model: As in the config, without a path that is outside of the project.
        run, time: Id and time of the last run; empty and None if there is no record of one.
        environment: Of the last run: `python`, `platform`, `cores`, `versions`.
        record: Its run.json.
    """

    project: str
    task_name: str
    base_model: str
    run: str
    time: datetime | None
    stages: list[StageFacts]
    trainings: list[TrainingFacts]
    environment: Mapping[str, Any]
    record: Mapping[str, Any]

    @property
    def failed(self) -> list[StageFacts]:
        return [stage for stage in self.stages if stage.state == "failed"]


def read_project(workflow: Workflow, project: ProjectFolder) -> ProjectFacts:
    """Read the facts of `project`; a file that is absent or unreadable is a fact less, never an error."""
    runs = read_runs(project)
    stages = {stage.name: stage for stage in plan(workflow, project)}
    measured = last_figures(project)
    last = runs[0] if runs else None
    return ProjectFacts(
        project=project.root.name,
        task_name=project.output.name if project.output else "",
        base_model=_model_name(workflow, project),
        run=last.id if last else "",
        time=last.time if last else None,
        stages=[_stage(stage, project, measured.get(stage.name, {})) for stage in stages.values()],
        trainings=[
            _training(workflow, project, training, stages, stages[stage], runs)
            for stage, training in evaluation_stages(workflow).items()
            if training is not None
        ],
        environment=next((run.environment for run in runs if run.environment), {}),
        record=last.record if last else {},
    )


def _evaluation(folder: Path) -> tuple[dict[str, Any] | None, str]:
    """Return evaluation.json of `folder`, and a note if it cannot be used."""
    if not (folder / RESULTS).is_file():
        return None, ""
    content = read_object(folder / RESULTS)
    if any(key not in content for key in _REQUIRED):
        return None, "The comparison is of another version of phi-scaffold; `phi-scaffold evaluate` builds it again."
    return content, ""


def _stage(stage: Stage, project: ProjectFolder, figures: Mapping[str, Any]) -> StageFacts:
    manifest = stage.manifest
    inputs = manifest.facts.get("inputs", {}) if manifest else {}
    return StageFacts(
        stage.name,
        stage.type,
        stage.state,
        stage.why,
        project.shown(stage.target),
        figures.get("run", ""),
        {key: value for key, value in figures.items() if key not in ("stage", "state", "output", "run")},
        manifest.content if manifest else "",
        inputs.get("versions", {}),
    )


def _training(
    workflow: Workflow,
    project: ProjectFolder,
    name: str,
    stages: Mapping[str, Stage],
    measured: Stage,
    runs: Sequence[RecordedRun],
) -> TrainingFacts:
    stage = stages[name]
    facts = stage.manifest.facts if stage.manifest else {}
    evaluation, note = _evaluation(measured.target)
    judged = read_facts(project, workflow, name, evaluation)
    if evaluation is not None and evaluation["rows"] and not judged.rows:
        note = f"{ROWS} cannot be read, so no single rows are shown; `phi-scaffold evaluate` writes it again."
    elif evaluation is not None and measured.state != "cached":
        note = f"The comparison is older than {_changed(stages, measured)}. `phi-scaffold run` updates it."
    return TrainingFacts(
        name,
        facts.get("inputs", {}).get("config") or canonical(workflow.passes[name]),
        {key: value for key, value in facts.items() if key not in ("inputs", "origins")},
        _curves(stage, facts, runs),
        evaluation,
        judged.rows,
        judged.data,
        stored_ratings(project, judged.rows),
        stored_benchmarks(workflow, project, name),
        note,
        judge(judged) if evaluation or stage.manifest else None,
    )


def _changed(stages: Mapping[str, Stage], measured: Stage) -> str:
    """Return the first stage that is not up to date, with the reason."""
    stage = next((s for s in stages.values() if s.state not in ("cached", "deleted")), measured)
    return f"`{stage.name}` ({stage.why or stage.state})"


def _curves(stage: Stage, facts: Mapping[str, Any], runs: Sequence[RecordedRun]) -> Curves:
    """Return the curves of the trained model; of a training that did not end, those in the record of its run."""
    if stage.manifest is not None:
        log = read_loss_log(stage.target)
        return replace(_read_curves(log, "eval_loss"), best_step=facts.get("best_step"))
    for run in runs:
        log = [e for e in read_json_lines(run.folder / "metrics.jsonl") if e.get("stage") == stage.name and "step" in e]
        if log:
            return replace(_read_curves(log, "validation_loss"), complete=False)
    return Curves()


def _read_curves(log: Sequence[Mapping[str, Any]], validation: str) -> Curves:
    loss, validated, rate = (
        [(point.step, point.value) for point in curve_statistics.curve(log, name)]
        for name in ("loss", validation, "learning_rate")
    )
    return Curves(loss, validated, rate)


def _model_name(workflow: Workflow, project: ProjectFolder) -> str:
    path = base_model_path(workflow.input_model, project)
    return base_name(path, project) or path.name
