"""One trial: run the workflow with the values of the trial up to the training pass, and return its score."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

from phi_runtime.config.overrides import Overrides
from phi_runtime.config.pass_graph import BASE
from phi_runtime.config.schema import Workflow
from phi_runtime.config.stage_names import EVALUATE, FETCH
from phi_runtime.core.artifacts import read_manifest
from phi_runtime.core.errors import Conflict, Interrupted, MissingDependency, NetworkError, PhiError
from phi_runtime.core.events import Emit, Event, progress_message
from phi_runtime.core.locks import Holder, exclusive
from phi_runtime.core.project import ProjectFolder
from phi_runtime.data.dataset import data_context, load_dataset
from phi_runtime.hardware.process_memory import free_cached
from phi_runtime.models.fetch import present
from phi_runtime.pipeline.engine import run
from phi_runtime.pipeline.graph import existing_models
from phi_runtime.pipeline.load import load_config
from phi_runtime.pipeline.model_names import comparison_name
from phi_runtime.pipeline.stage import model_folder
from phi_runtime.search.sweep import metric

_TURN = ".turn.lock"
_FATAL = (MissingDependency, NetworkError, Conflict)  # would end the next trial too

State = Literal["complete", "pruned", "failed"]
Judge = Callable[[int, float], bool]
"""(percent of the run, intermediate value) → True if the trial should be pruned."""


@dataclass(frozen=True)
class TrialSettings:
    """Settings shared by all trials: `stage` is the training pass, `overrides` are those of the command line."""

    project: ProjectFolder
    folder: Path
    stage: str
    metric: str
    overrides: Overrides = field(default_factory=Overrides)


@dataclass(frozen=True)
class TrialTask:
    """A trial to run: its values by dotted path from the top of the config, and the folder that is its gen-model/."""

    values: dict[str, Any]
    folder: Path

    @property
    def name(self) -> str:
        return self.folder.name


@dataclass(frozen=True)
class TrialResult:
    """The result of a trial.

    Attributes:
        score: The metric of a complete trial.
        why: Why the trial failed or was pruned.
        figures: Everything measured on the validation rows.
    """

    state: State
    score: float | None = None
    why: str = ""
    figures: dict[str, float] = field(default_factory=dict)
    wall_s: float = 0.0


class Pruned(Interrupted):
    """The trial is worse than the others were at the same point."""


class Diverged(Interrupted):
    """The validation figure of the trial is not finite."""


def run_trial(settings: TrialSettings, task: TrialTask, emit: Emit, judge: Judge) -> TrialResult:
    """Run `task` to its end, or until `judge` prunes it; resume from its last checkpoint if it was interrupted.

    Failures that the values may cause are part of the result.

    Raises:
        PhiError: A failure that any trial would meet: an interruption, a missing library, no answer of the
            hub, a full disk.
    """
    started = time.monotonic()
    try:
        result = _run(settings, task, emit, judge)
    except Pruned as e:
        result = TrialResult("pruned", why=e.what)
    except Diverged as e:
        result = TrialResult("failed", why=e.what)
    except (Interrupted, *_FATAL):
        raise
    except PhiError as e:
        if isinstance(e.__cause__, OSError) or getattr(e, "resource", "") == "disk":
            raise
        result = TrialResult("failed", why=e.what)
    finally:
        free_cached()
    return replace(result, wall_s=round(time.monotonic() - started, 2))


def _run(settings: TrialSettings, task: TrialTask, emit: Emit, judge: Judge) -> TrialResult:
    project = replace(settings.project, output=task.folder)
    overrides = replace(settings.overrides, values=task.values)
    listener = _Listener(settings, task, emit, judge)
    config = load_config(project.config, overrides)
    workflow = config.require_valid()

    def wait(_: Holder) -> None:
        emit(progress_message(task.name, "waiting for another trial, which prepares the data of all"))

    with exclusive(settings.folder / _TURN, wait=cache(wait)):  # one trial at a time writes what all share
        run(project, listener, config=config, only=[FETCH])
        base = present(workflow.input_model, project)
        assert base is not None
        place = data_context(project, base, overrides)
        load_dataset(workflow, workflow.trainings[settings.stage], place, listener, settings.stage)
    run(project, listener, config=config, only=[settings.stage])
    all_figures = _figures(settings, workflow, project, listener)
    score = all_figures.get(settings.metric)
    figures = {name: value for name, value in all_figures.items() if math.isfinite(value)}
    if score is None:
        return TrialResult(
            "failed", why=f"`{settings.metric}` was not measured; check that there are validation rows", figures=figures
        )
    if not math.isfinite(score):
        return TrialResult("failed", why=f"`{settings.metric}` is not finite", figures=figures)
    return TrialResult("complete", score, figures=figures)


class _Listener:
    """Forward the events of a trial under its name, and let the judge decide at each evaluation."""

    def __init__(self, settings: TrialSettings, task: TrialTask, emit: Emit, judge: Judge) -> None:
        self.settings, self.task, self.emit, self.judge = settings, task, emit, judge
        self.steps = 0

    def __call__(self, event: Event) -> None:
        if event.event in ("progress", "metric", "warning"):
            self.emit(replace(event, stage=self.task.name))
        if event.stage != self.settings.stage:
            return
        if event.event == "progress" and event.data.get("unit") == "steps":
            self.steps = event.data["total"]
        value = metric.from_event(self.settings.metric, event.data) if event.event == "metric" else None
        if value is None or not self.steps or "step" not in event.data:
            return
        percent = round(100 * event.data["step"] / self.steps)
        if not math.isfinite(value):
            raise Diverged(f"diverged: the validation figure is not finite at {percent} % of the run")
        if self.judge(percent, value):
            raise Pruned(f"worse than the median at {percent} % of the run")


def _figures(settings: TrialSettings, workflow: Workflow, project: ProjectFolder, emit: Emit) -> dict[str, float]:
    """Return everything measured on the validation rows; evaluate the model if training did not measure the metric."""
    target = model_folder(workflow, project, settings.stage)
    manifest = read_manifest(target)
    assert manifest is not None
    figures = metric.from_log(target, manifest.facts.get("best_step"))
    if settings.metric in figures or not figures:
        return figures
    return figures | _evaluated(settings, workflow, project, emit)


def _evaluated(settings: TrialSettings, workflow: Workflow, project: ProjectFolder, emit: Emit) -> dict[str, float]:
    """Evaluate the trained model on the validation rows."""
    from phi_runtime.evaluation.comparison import evaluate
    from phi_runtime.hardware.device import pick_device

    models = existing_models(workflow, project)
    out = project.gen_model / "evaluation"
    out.mkdir(exist_ok=True)
    content = evaluate(
        workflow,
        settings.stage,
        [(comparison_name(workflow, settings.stage), models[settings.stage])],
        data_context(project, models[BASE], settings.overrides),
        out,
        pick_device(workflow.host_device),
        emit,
        EVALUATE,
    )
    result = content["models"][0]
    return {**result["metrics"], metric.PERPLEXITY: result["perplexity"]}
