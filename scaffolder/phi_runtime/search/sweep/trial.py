"""One trial: the project's workflow with values put in, run up to the pass that trains, and what that came to."""

from __future__ import annotations

import gc
import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from phi_runtime.config.overrides import Overrides
from phi_runtime.config.pass_graph import BASE
from phi_runtime.config.schema import Workflow
from phi_runtime.config.stage_names import EVALUATE, FETCH
from phi_runtime.core.artifacts import read_manifest
from phi_runtime.core.errors import Conflict, Interrupted, MissingDependency, NetworkError, PhiError
from phi_runtime.core.events import Emit, Event
from phi_runtime.core.locks import exclusive
from phi_runtime.core.project import Project
from phi_runtime.data.dataset import data_place, load_dataset
from phi_runtime.models.fetch import present
from phi_runtime.pipeline.engine import run
from phi_runtime.pipeline.graph import existing_models
from phi_runtime.pipeline.load import load_workflow
from phi_runtime.pipeline.model_names import comparison_name
from phi_runtime.pipeline.stage import model_folder
from phi_runtime.search.sweep import metric

_TURN = ".turn.lock"
_NOT_OF_THE_VALUES = (MissingDependency, NetworkError, Conflict)  # the next trial would end the same way

State = Literal["complete", "pruned", "failed"]
Judge = Callable[[int, float], bool]
"""(percent of the run, how good it is there) → whether the trial is to end."""


@dataclass(frozen=True)
class TrialSettings:
    """What all trials of a search have in common. `overrides` are those of the command line; `stage` is the pass that trains."""

    project: Project
    folder: Path
    stage: str
    metric: str
    overrides: Overrides = field(default_factory=Overrides)

    def as_dict(self) -> dict[str, Any]:
        return {
            "project": self.project.as_dict(),
            "folder": str(self.folder),
            "stage": self.stage,
            "metric": self.metric,
            "overrides": self.overrides.as_dict(),
        }

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> TrialSettings:
        project, overrides = Project.from_dict(value["project"]), Overrides.from_dict(value["overrides"])
        return cls(project, Path(value["folder"]), value["stage"], value["metric"], overrides)


@dataclass(frozen=True)
class TrialTask:
    """A trial to run: `values` by the dotted path from the top of the config; `folder` is its own, as a gen-model/."""

    number: int
    values: dict[str, Any]
    folder: Path

    @property
    def name(self) -> str:
        return self.folder.name

    def as_dict(self) -> dict[str, Any]:
        return {"number": self.number, "values": self.values, "folder": str(self.folder)}

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> TrialTask:
        return cls(value["number"], value["values"], Path(value["folder"]))


@dataclass(frozen=True)
class TrialResult:
    """What a trial came to. `score` is that of a complete one; `why` says what a failed one died of, or where one was pruned;
    `figures` are all that was measured of the held-out rows."""

    state: State
    score: float | None = None
    why: str = ""
    figures: dict[str, float] = field(default_factory=dict)
    wall_s: float = 0.0


class Pruned(Interrupted):
    """The trial is worse than others were at the same point."""


class Diverged(Interrupted):
    """The trial's held-out figure is not a number any more."""


def run_trial(setting: TrialSettings, task: TrialTask, emit: Emit, judge: Judge) -> TrialResult:
    """Runs `task` to its end, or to where `judge` ends it; goes on from its last checkpoint if it was interrupted.

    What the values of the trial bring about is a Result, a failure too. Raises PhiError for what would befall any trial: Interrupted,
    a library that is missing, a hub that does not answer, a full disk.
    """
    started = time.monotonic()
    try:
        result = _run(setting, task, emit, judge)
    except Pruned as e:
        result = TrialResult("pruned", why=e.what)
    except Diverged as e:
        result = TrialResult("failed", why=e.what)
    except (Interrupted, *_NOT_OF_THE_VALUES):
        raise
    except PhiError as e:
        if isinstance(e.__cause__, OSError):  # the disk
            raise
        result = TrialResult("failed", why=e.what)
    finally:
        _let_go()
    return replace(result, wall_s=round(time.monotonic() - started, 2))


def _run(setting: TrialSettings, task: TrialTask, emit: Emit, judge: Judge) -> TrialResult:
    project = replace(setting.project, output=task.folder)
    overrides = replace(setting.overrides, values=task.values)
    listener = _Listener(setting, task, emit, judge)
    workflow = load_workflow(project.config, overrides)
    with _turn(setting.folder / _TURN):  # what is shared is made by one trial at a time
        run(project, listener, only=[FETCH], overrides=overrides)
        base = present(workflow.input_model, project)
        assert base is not None
        place = data_place(project, base, overrides)
        load_dataset(workflow, workflow.trainings[setting.stage], place, listener, setting.stage)
    run(project, listener, only=[setting.stage], overrides=overrides)
    measured = _figures(setting, workflow, project, listener)
    score = measured.get(setting.metric)
    figures = {name: value for name, value in measured.items() if math.isfinite(value)}
    if score is None:
        return TrialResult("failed", why=f"nothing measured `{setting.metric}`: are rows held out?", figures=figures)
    if not math.isfinite(score):
        return TrialResult("failed", why=f"`{setting.metric}` is not a number", figures=figures)
    return TrialResult("complete", score, figures=figures)


class _Listener:
    """Passes on what a trial tells, in the trial's name, and asks the judge at each evaluation."""

    def __init__(self, setting: TrialSettings, task: TrialTask, emit: Emit, judge: Judge) -> None:
        self.setting, self.task, self.emit, self.judge = setting, task, emit, judge
        self.steps = 0

    def __call__(self, event: Event) -> None:
        if event.event in ("progress", "metric", "warning"):
            self.emit(replace(event, stage=self.task.name))
        if event.stage != self.setting.stage:
            return
        if event.event == "progress" and event.data.get("unit") == "steps":
            self.steps = event.data["total"]
        held_out = metric.of_events(self.setting.metric, event.data) if event.event == "metric" else None
        if held_out is None or not self.steps or "step" not in event.data:
            return
        percent = round(100 * event.data["step"] / self.steps)
        if not math.isfinite(held_out):
            raise Diverged(f"diverged: at {percent} % of the run, what is held out gives no number")
        if self.judge(percent, held_out):
            raise Pruned(f"worse than the median at {percent} % of the run")


def _figures(setting: TrialSettings, workflow: Workflow, project: Project, emit: Emit) -> dict[str, float]:
    """All that was measured of the held-out rows; the model is asked them where nothing else has the metric."""
    from phi_runtime.training.finetune import LOSS_LOG

    target = model_folder(workflow, project, setting.stage)
    manifest = read_manifest(target)
    assert manifest is not None
    figures = metric.of_log(target / LOSS_LOG, manifest.facts.get("best_step"))
    if setting.metric in figures or not figures:
        return figures
    return figures | _evaluated(setting, workflow, project, emit)


def _evaluated(setting: TrialSettings, workflow: Workflow, project: Project, emit: Emit) -> dict[str, float]:
    """Evaluate the trained model on the validation rows."""
    from phi_runtime.evaluation.comparison import evaluate
    from phi_runtime.hardware.device import pick_device

    models = existing_models(workflow, project)
    out = project.gen_model / "evaluation"
    out.mkdir(exist_ok=True)
    content = evaluate(
        workflow,
        setting.stage,
        [(comparison_name(workflow, setting.stage), models[setting.stage])],
        data_place(project, models[BASE], setting.overrides),
        out,
        pick_device(workflow.host_device),
        emit,
        EVALUATE,
    )
    result = content["models"][0]
    return {**result["metrics"], metric.PERPLEXITY: result["perplexity"]}


@contextmanager
def _turn(path: Path) -> Iterator[None]:
    """Waits for the lock file at `path`, and holds it."""
    with ExitStack() as held:
        while True:
            try:
                held.enter_context(exclusive(path))
                break
            except Conflict:
                time.sleep(0.2)
        yield


def _let_go() -> None:
    """Gives back the memory of the trial's model."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
