"""The result of a search: its trials, the config of the best one, and the importance of each key."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from phi_runtime.config.dialects.migrate import canonical_text
from phi_runtime.config.overrides import Overrides
from phi_runtime.config.parse import parse_config
from phi_runtime.config.reading.source import read_source
from phi_runtime.config.schema import Sweep, Workflow
from phi_runtime.config.search_space import full_key
from phi_runtime.core.artifacts import WRITTEN, read_json, replace_unless_edited, write_json, write_text
from phi_runtime.core.project import ProjectFolder
from phi_runtime.evaluation.metrics import main_result
from phi_runtime.evaluation.row_results import RESULTS
from phi_runtime.pipeline.model_names import comparison_name
from phi_runtime.pipeline.stage import evaluation_folder, model_folder
from phi_runtime.search.sweep import metric as metrics
from phi_runtime.search.sweep import space
from phi_runtime.search.sweep.study import FOLDER, StudyFolder, load_study, storage_failures
from phi_runtime.search.sweep.trial import State, TrialSettings

if TYPE_CHECKING:
    import optuna

    from phi_runtime.search.sweep.planning import SweepPlan

TRIALS, IMPORTANCES = "trials.json", "importances.svg"
_MIN_TRIALS = 6  # finished trials from which on importances are meaningful


@dataclass(frozen=True)
class Trial:
    """A trial.

    Attributes:
        values: The values by key of the search space.
        score: The metric; None unless the trial is complete.
        figures: Everything measured on the validation rows.
        intermediate_values: The metric during training, by percent of the run.
    """

    number: int
    values: dict[str, Any]
    state: State | Literal["running"]
    score: float | None
    why: str
    wall_s: float | None
    figures: dict[str, float] = field(default_factory=dict)
    intermediate_values: dict[str, float] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        return {"metrics" if name == "figures" else name: value for name, value in vars(self).items()}


@dataclass(frozen=True)
class SweepResult:
    """The result of a search.

    Attributes:
        importances: Shares by key, the largest first; empty for too few trials.
        config: The config with the values of the best trial.
        model: The model of the best trial.
        previous_config: The user's edited version of an earlier `config`, under its new name.
    """

    study: str
    folder: Path
    metric: str
    trials: Sequence[Trial]
    best: Trial
    importances: dict[str, float]
    config: Path
    model: Path
    previous_config: Path | None

    def as_dict(self, project: ProjectFolder) -> dict[str, Any]:
        """Return the output of `sweep --json` (docs/json.md)."""
        paths = {
            "config": project.shown(self.config),
            "previous_config": project.shown(self.previous_config) if self.previous_config else None,
            "model": project.shown(self.model),
        }
        return {
            "study": self.study,
            "folder": project.shown(self.folder),
            "metric": self.metric,
            "trials": [trial.as_dict() for trial in self.trials],
            "best": {**self.best.as_dict(), **paths},
            "importances": self.importances,
        }


def trial_of(trial: optuna.trial.FrozenTrial, sweep: Sweep) -> Trial:
    """Return a trial of Optuna's storage."""
    from optuna.trial import TrialState

    states: dict[Any, State] = {
        TrialState.COMPLETE: "complete",
        TrialState.PRUNED: "pruned",
        TrialState.FAIL: "failed",
    }
    is_complete = trial.params.keys() == sweep.search_space.keys()
    attributes = trial.user_attrs
    return Trial(
        trial.number,
        space.decoded(sweep.search_space, trial.params) if is_complete else {},
        states.get(trial.state, "running"),
        trial.value if trial.state == TrialState.COMPLETE else None,
        attributes.get("why", ""),
        attributes.get("wall_s"),
        attributes.get("figures", {}),
        {f"{percent} %": value for percent, value in sorted(trial.intermediate_values.items())},
    )


def trials_of(place: StudyFolder, sweep: Sweep) -> list[Trial]:
    """Return the trials of an existing study."""
    with storage_failures(place):
        return [trial_of(t, sweep) for t in load_study(place).get_trials(deepcopy=False)]


def conclude(plan: SweepPlan, study: optuna.Study, best: int) -> SweepResult:
    """Write trials.json and importances.svg into the study, and the best config next to the project's config.

    Args:
        best: The number of the best trial.
    """
    settings, place = plan.settings, plan.place
    trials = [trial_of(trial, plan.sweep) for trial in study.get_trials(deepcopy=False)]
    importances = importances_of(study)
    config, previous = _write_best(settings, trials[best])
    trial = replace(settings.project, output=place.trial_folder(best))
    model = model_folder(plan.workflow, trial, settings.stage)
    result = SweepResult(
        place.name, place.folder, settings.metric, trials, trials[best], importances, config, model, previous
    )
    write_json(place.folder / TRIALS, result.as_dict(settings.project))
    if importances:
        write_text(place.folder / IMPORTANCES, chart(importances, settings.metric))
    return result


def seed_spread(workflow: Workflow, settings: TrialSettings) -> tuple[list[float], str] | None:
    """Return the metric of the search over the seeds of `evaluate --seeds`, and the side of the rows that it was measured on.

    None if they were not measured, or have another metric.
    """
    with suppress(OSError, ValueError, KeyError, TypeError):
        content = read_json(evaluation_folder(workflow, settings.project, settings.stage) / RESULTS)
        name = comparison_name(workflow, settings.stage)
        model = next(model for model in content["models"] if model["name"] == name)
        metric, _, _ = main_result(content["task"], model)
        if metric == settings.metric and model["seeds"]:
            return model["seeds"]["values"], content["rows_of"]
    return None


def importances_of(study: optuna.Study) -> dict[str, float]:
    """Return the importance of each key for being among the best tenth of the trials; empty for too few trials.

    Uses PED-ANOVA (https://arxiv.org/abs/2304.10255), which needs to know of the other trials only that they
    are worse: pruned trials count as the worst one.
    """
    import optuna
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
    from optuna.study import StudyDirection
    from optuna.trial import TrialState, create_trial

    finished = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
    scores = [t.value for t in finished if t.state == TrialState.COMPLETE and t.value is not None]
    if len(finished) < _MIN_TRIALS or len(set(scores)) < 2:
        return {}
    worst = max(scores) if study.direction == StudyDirection.MINIMIZE else min(scores)
    compared = optuna.create_study(direction=study.direction)
    for t in finished:
        value = t.value if t.state == TrialState.COMPLETE else worst
        compared.add_trial(create_trial(params=t.params, distributions=t.distributions, value=value))
    shares = get_param_importances(compared, evaluator=PedAnovaImportanceEvaluator())
    return {key: round(share, 4) for key, share in shares.items()} if sum(shares.values()) > 0 else {}


def _write_best(settings: TrialSettings, best: Trial) -> tuple[Path, Path | None]:
    """Write the config with the values of `best` next to the project's config, so that relative paths stay valid.

    Returns:
        Its path, and that of an earlier one that the user had edited, which is kept under another name.
    """
    config = settings.project.config
    values = {full_key(key, settings.stage): value for key, value in best.values.items()}
    parsed = parse_config(read_source(config), Overrides(settings=settings.overrides.settings, values=values))
    target = config.with_name(f"{config.stem}.best.json")
    text = canonical_text(parsed.draft, target)
    return target, replace_unless_edited(target, text, settings.project.gen_model / FOLDER / WRITTEN)


def chart(importances: dict[str, float], metric: str) -> str:
    """Return the importances as a self-contained SVG bar chart."""
    left, width, bar, gap, top = 8 + 7 * max(map(len, importances)), 320, 18, 10, 44
    height = top + len(importances) * (bar + gap) + 8
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + width + 80}" height="{height}" '
        'font-family="system-ui, sans-serif" font-size="13">',
        '<rect width="100%" height="100%" fill="#ffffff"/>',
        f'<text x="8" y="24" font-size="15" fill="#222222">Importance of each key for {escape(metrics.label(metric))}</text>',
    ]
    for i, (key, share) in enumerate(importances.items()):
        y = top + i * (bar + gap)
        lines += [
            f'<text x="{left}" y="{y + 14}" text-anchor="end" fill="#222222">{escape(key)}</text>',
            f'<rect x="{left + 8}" y="{y}" width="{max(1, round(width * share))}" height="{bar}" fill="#3b6ea8"/>',
            f'<text x="{left + 14 + round(width * share)}" y="{y + 14}" fill="#222222">{100 * share:.0f} %</text>',
        ]
    return "\n".join([*lines, "</svg>"]) + "\n"
