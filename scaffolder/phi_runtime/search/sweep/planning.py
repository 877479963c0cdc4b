"""What a search would do: read and checked before the first trial, without Optuna."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from phi_runtime.config.overrides import Overrides
from phi_runtime.config.parse import SWEEP
from phi_runtime.config.schema import Sweep, Workflow
from phi_runtime.config.search_space import full_key, trained_pass
from phi_runtime.config.sidecars import sidecar_path
from phi_runtime.core.errors import ConfigError, Location, MissingDependency
from phi_runtime.core.project import Project, read_dotenv
from phi_runtime.pipeline.load import load_workflow
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
    """A search that can be run: what is searched, where its study lies, and how many trials there are to be in all."""

    setting: TrialSettings
    sweep: Sweep
    workflow: Workflow
    place: study.StudyFolder
    trials: int

    def keys(self) -> dict[str, str]:
        """The dotted path from the top of the config, by key of the search space."""
        return {key: full_key(key, self.setting.stage) for key in self.sweep.search_space}


def prepare(
    project: Project, *, trials: int | None = None, metric: str | None = None, overrides: Overrides | None = None
) -> SweepPlan:
    """Reads and checks the search of `project`. Raises ConfigError and UsageError before anything is run.

    `trials` and `metric` stand for what the search itself says.
    """
    read_dotenv(project.root)
    overrides = overrides or Overrides()
    workflow = load_workflow(project.config, overrides)
    file = sidecar_path(project.config, SWEEP)
    if workflow.sweep is None:
        raise ConfigError("there is no search to run", where=Location(file), fix=f"write {file} such as\n{EXAMPLE}")
    if workflow.remote:
        raise MissingDependency(
            f"`{workflow.remote}` is an Azure ML system, and a search there is not built yet",
            fix="search on this machine: phi-scaffold sweep --on local --data FILE",
        )
    sweep = workflow.sweep
    trained = trained_pass(workflow, list(sweep.search_space))
    if trained is None:
        raise ConfigError(
            "no pass trains, so there is nothing to search", where=Location(project.config), fix="add a pass"
        )
    name = metrics.checked(metric or sweep.search_strategy.metric, workflow, trained, project)
    training = workflow.trainings[trained]
    if not training.eval_data_config and not training.eval_dataset_size:
        raise ConfigError(
            "no rows are held out, so trials cannot be told apart",
            where=Location(project.config),
            fix=f"set `eval_dataset_size` of `{trained}`, such as 0.2",
        )
    if training.training_args.eval_strategy == "no":
        raise ConfigError(
            "`eval_strategy` is no, so that nothing is measured on the held-out rows",
            where=Location(project.config),
            fix="set it to epoch, or to steps with eval_steps",
        )
    fixed = {full_key(key, trained): _any_value(values) for key, values in sweep.search_space.items()}
    pinned = load_workflow(project.config, replace(overrides, values=fixed))
    place = study.find(project, study.inputs_of(pinned, project, sweep, trained, name))
    setting = TrialSettings(project, place.folder, trained, name, overrides)
    return SweepPlan(setting, sweep, workflow, place, _count(sweep, trials))


def _any_value(values: Any) -> Any:
    return values.values[0] if values.type == "choice" else values.low


def _count(sweep: Sweep, asked: int | None) -> int:
    """How many trials there are to be: those that were asked for, but no more than a grid has."""
    strategy = sweep.search_strategy
    if strategy.type != "grid":
        return asked or strategy.num_trials
    given = strategy.num_trials if "num_trials" in strategy.model_fields_set else None
    whole = space.grid_size(sweep.search_space)
    return min(asked or given or whole, whole)


def plan_as_dict(plan: SweepPlan) -> dict[str, Any]:
    """What a search would do, as `sweep --dry-run --json` prints it."""
    from phi_runtime.search.sweep.outcome import trials_of

    done = [] if plan.place.new else trials_of(plan.place, plan.sweep)
    over = sum(trial.state != "running" for trial in done)
    return {
        "study": plan.place.name,
        "new": plan.place.new,
        "why": plan.place.why,
        "metric": plan.setting.metric,
        "sampler": plan.sweep.search_strategy.type,
        "search_space": {plan.keys()[k]: v.model_dump(mode="json") for k, v in plan.sweep.search_space.items()},
        "trials_done": over,
        "trials_to_run": max(0, plan.trials - over),
    }
