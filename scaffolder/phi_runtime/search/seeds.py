"""Train with other seeds and measure the models on the same rows: the spread that chance in the training causes.

The seed of the order of rows (`data_seed`) stays that of the project, since it also divides the rows. Each seed is resumed from its
last checkpoint if it was interrupted. Its models are deleted once they are measured; answers and records stay.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from phi_runtime.config.pass_graph import trainings_of
from phi_runtime.config.schema import Workflow
from phi_runtime.config.stage_names import evaluation_stages
from phi_runtime.core.artifacts import delete_folder
from phi_runtime.core.errors import Interrupted
from phi_runtime.core.events import Emit, Event
from phi_runtime.core.locks import exclusive
from phi_runtime.core.project import ProjectFolder
from phi_runtime.hardware.process_memory import free_cached
from phi_runtime.pipeline.artifact import finish_stage, make_stage, work_folder
from phi_runtime.pipeline.compare import Comparison
from phi_runtime.pipeline.engine import run
from phi_runtime.pipeline.graph import existing_models
from phi_runtime.pipeline.load import LoadedConfig, load_config
from phi_runtime.pipeline.plan import plan
from phi_runtime.pipeline.run_record import last_figures
from phi_runtime.pipeline.seed_runs import record_seed, seed_folder
from phi_runtime.pipeline.stage import Stage, evaluation_stage, model_folder


@dataclass(frozen=True)
class SeedRun:
    """One training with another seed: its own gen-model/ is that of `project`; `of` is the evaluation of the project's seed."""

    training: str
    seed: int
    project: ProjectFolder
    config: LoadedConfig
    of: Stage

    @property
    def workflow(self) -> Workflow:
        return self.config.require_valid()

    @property
    def stage(self) -> Stage:
        """The evaluation of this seed, as it is on disk."""
        return next(stage for stage in plan(self.workflow, self.project) if stage.name == self.of.name)

    @property
    def is_done(self) -> bool:
        return self.stage.state == "cached"


@dataclass(frozen=True)
class SeedPlan:
    """The seeds of a comparison.

    Attributes:
        runs: Those in addition to the project's own.
        expected_s: Expected time of those that are not done, from the last training of the project; None if it is not known.
    """

    project: ProjectFolder
    count: int
    runs: tuple[SeedRun, ...]
    expected_s: float | None

    @property
    def missing(self) -> list[SeedRun]:
        return [run for run in self.runs if not run.is_done]


def plan_seeds(config: LoadedConfig, project: ProjectFolder, stages: Sequence[str], count: int) -> SeedPlan:
    """Plan `count` seeds, the project's own included, for the evaluation `stages`, which must be up to date."""
    workflow = config.require_valid()
    existing, current = evaluation_stages(workflow), {stage.name: stage for stage in plan(workflow, project)}
    runs: list[SeedRun] = []
    for name in stages:
        training = existing[name]
        if training is None or training not in workflow.trainings:
            continue
        arguments = workflow.trainings[training].training_args
        for seed in range(arguments.seed + 1, arguments.seed + count):
            at = f"passes.{training}.training_args"
            values = {**config.overrides.values, f"{at}.seed": seed, f"{at}.data_seed": arguments.order_seed}
            overrides = replace(config.overrides, values=values)
            own = replace(project, output=seed_folder(project, training, seed))
            runs.append(SeedRun(training, seed, own, load_config(project.config, overrides), current[name]))
    figures = last_figures(project)
    steps = [figures.get(step, {}).get("wall_s") for run in runs if not run.is_done for step in _steps(run)]
    known = [wall for wall in steps if wall is not None]
    return SeedPlan(project, count, tuple(runs), sum(known) if known and len(known) == len(steps) else None)


def run_seeds(seeds: SeedPlan, emit: Emit) -> None:
    """Train, export and measure the seeds that are not done; those that are finished are kept if this is stopped.

    Raises:
        Interrupted: It was stopped; the next call resumes.
        Conflict: Another run is active in the project.
        PhiError: A stage of a seed failed.
    """
    fix = f"`phi-scaffold evaluate --seeds {seeds.count}` resumes"
    with exclusive(seeds.project.run_lock):
        for each in seeds.runs:
            try:
                if not each.is_done:
                    _run(each, emit)
                _clean(each)
            except (KeyboardInterrupt, Interrupted):
                raise Interrupted(f"stopped in the training with seed {each.seed}", fix=fix) from None
            finally:
                free_cached()
            record_seed(seeds.project, each.training, each.of.measured_inputs, each.seed, each.stage.target)


def _run(each: SeedRun, emit: Emit) -> None:
    def listener(event: Event) -> None:
        if event.event != "run-finished":
            emit(replace(event, stage=f"{event.stage or 'run'}, seed {each.seed}"))

    workflow, project = each.workflow, each.project
    run(project, listener, config=each.config, only=_steps(each))
    models = existing_models(workflow, project)
    stage = evaluation_stage(workflow, project, each.of.name, models)
    comparison = Comparison(workflow, project, each.config.overrides, each.training, stage, models, listener)

    def measure(out: Path) -> dict[str, Any]:
        return {"rows": comparison.measure(out, trained_only=True)["rows"]}

    make_stage(stage, "evaluation", work_folder(project, stage), measure)


def _clean(each: SeedRun) -> None:
    """Delete the models of a seed that was measured, also if that call was killed then."""
    stage = each.stage
    assert stage.manifest
    finish_stage(stage.target, stage.manifest, work_folder(each.project, stage))
    for step in each.workflow.passes:
        with suppress(OSError):
            delete_folder(model_folder(each.workflow, each.project, step))


def _steps(each: SeedRun) -> list[str]:
    """Return the passes whose models are measured."""
    passes = each.workflow.passes
    return [name for name in passes if each.training in trainings_of(passes, name)]
