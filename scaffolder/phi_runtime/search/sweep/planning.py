"""The plan of a search: read and checked before the first trial, without Optuna."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from phi_runtime.config.overrides import Overrides
from phi_runtime.config.parse import SWEEP
from phi_runtime.config.schema import Sweep, Workflow
from phi_runtime.config.search_space import full_key, trained_pass
from phi_runtime.config.sidecars import sidecar_path
from phi_runtime.core.dotenv import read_dotenv
from phi_runtime.core.errors import ConfigError, Location, MissingDependency
from phi_runtime.core.project import ProjectFolder
from phi_runtime.pipeline.load import LoadedConfig, load_config
from phi_runtime.search.sweep import metric as metrics
from phi_runtime.search.sweep import space, study
from phi_runtime.search.sweep.trial import TrialSettings

EXAMPLE = """\
search_strategy: {type: tpe, num_trials: 20, seed: 42}
search_space:
  training_args.learning_rate: {type: float, low: 1e-5, high: 1e-3, log: true}
  r: {type: choice, values: [8, 16, 32]}"""


@dataclass(frozen=True)
class SweepPlan:
    """A valid search: its space, its study, and the total number of trials."""

    settings: TrialSettings
    config: LoadedConfig
    sweep: Sweep
    workflow: Workflow
    place: study.StudyFolder
    trials: int

    def keys(self) -> dict[str, str]:
        """Return the dotted path from the top of the config by key of the search space."""
        return {key: full_key(key, self.settings.stage) for key in self.sweep.search_space}


def prepare(
    project: ProjectFolder,
    *,
    trials: int | None = None,
    metric: str | None = None,
    overrides: Overrides | None = None,
) -> SweepPlan:
    """Read and check the search of `project`.

    Args:
        trials: The total number of trials, instead of that of the search.
        metric: The metric, instead of that of the search.

    Raises:
        ConfigError: The config is invalid, has no search, or has nothing to search or to measure.
        UsageError: There is no such metric.
        MissingDependency: The config runs on Azure ML.
    """
    read_dotenv(project.root)
    config = load_config(project.config, overrides)
    workflow = config.require_valid()
    file = sidecar_path(project.config, SWEEP)
    if workflow.sweep is None:
        raise ConfigError(
            "the config has no search", where=Location(file), fix=f"create {file}, for example\n{EXAMPLE}"
        )
    if workflow.remote:
        raise MissingDependency(
            f"`{workflow.remote}` is an Azure ML system, where a search cannot run",
            fix="search on this machine: phi-scaffold sweep --on local --data FILE",
        )
    sweep = workflow.sweep
    trained = trained_pass(workflow, list(sweep.search_space))
    if trained is None:
        raise ConfigError(
            "no pass trains, so there is nothing to search", where=Location(project.config), fix="add a pass"
        )
    name = metrics.require_metric(metric or sweep.search_strategy.metric, workflow, trained, project)
    training = workflow.trainings[trained]
    if not training.has_validation_rows:
        raise ConfigError(
            "trials cannot be compared without validation rows",
            where=Location(project.config),
            fix=f"set `eval_dataset_size` of `{trained}`, such as 0.2",
        )
    if training.training_args.eval_strategy == "no":
        raise ConfigError(
            "trials cannot be compared because `eval_strategy` is `no`",
            where=Location(project.config),
            fix="set it to epoch, or to steps with eval_steps",
        )
    fixed = {
        full_key(key, trained): values.values[0] if values.type == "choice" else values.low
        for key, values in sweep.search_space.items()
    }
    fixed_config = load_config(project.config, replace(config.overrides, values=fixed), config.source)
    place = study.find_study(project, study.study_inputs(fixed_config.require_valid(), project, sweep, trained, name))
    settings = TrialSettings(project, place.folder, trained, name, config.overrides)
    return SweepPlan(settings, config, sweep, workflow, place, _count(sweep, trials))


def _count(sweep: Sweep, requested: int | None) -> int:
    """Return the total number of trials, which for a grid is at most its size."""
    strategy = sweep.search_strategy
    if strategy.type != "grid":
        return requested or strategy.num_trials
    configured = strategy.num_trials if "num_trials" in strategy.model_fields_set else None
    size = space.grid_size(sweep.search_space)
    if size > space.MOST_COMBINATIONS:
        raise ConfigError(
            f"the grid has more than {space.MOST_COMBINATIONS:,} combinations",
            fix="set `search_strategy.type` to random, or name fewer values",
        )
    return min(requested or configured or size, size)


def plan_to_json(plan: SweepPlan) -> dict[str, Any]:
    """Return the output of `sweep --dry-run --json` (docs/json.md)."""
    from phi_runtime.search.sweep.outcome import trials_of

    trials = [] if plan.place.new else trials_of(plan.place, plan.sweep)
    finished = sum(trial.state != "running" for trial in trials)
    return {
        "study": plan.place.name,
        "new": plan.place.new,
        "why": plan.place.why,
        "metric": plan.settings.metric,
        "sampler": plan.sweep.search_strategy.type,
        "search_space": {plan.keys()[k]: v.model_dump(mode="json") for k, v in plan.sweep.search_space.items()},
        "trials_done": finished,
        "trials_to_run": max(0, plan.trials - finished),
    }
