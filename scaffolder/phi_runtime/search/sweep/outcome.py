"""What a search came to: its trials, the best of them with a config of its own, and what mattered how much."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from phi_runtime.config.dialects.migrate import canonical_text
from phi_runtime.config.overrides import Overrides
from phi_runtime.config.parse import parse_config
from phi_runtime.config.reading.source import read_source
from phi_runtime.config.schema import Sweep
from phi_runtime.config.search_space import full_key
from phi_runtime.core.artifacts import digest, replace_unless_edited, write_json, write_text
from phi_runtime.core.project import Project
from phi_runtime.pipeline.load import load_workflow
from phi_runtime.pipeline.stage import model_folder
from phi_runtime.search.sweep import metric as metrics
from phi_runtime.search.sweep import space
from phi_runtime.search.sweep.study import FOLDER, StudyFolder, open_existing
from phi_runtime.search.sweep.trial import State, TrialSettings

if TYPE_CHECKING:
    import optuna

TRIALS, IMPORTANCES, WRITTEN = "trials.json", "importances.svg", "written.json"
_ENOUGH = 6  # trials that are over, for importances to say anything


@dataclass(frozen=True)
class Trial:
    """A trial as it stands. `values` are by key of the search space; `score` is None unless the trial is complete."""

    number: int
    values: dict[str, Any]
    state: State | Literal["running"]
    score: float | None
    why: str
    wall_s: float | None
    figures: dict[str, float] = field(default_factory=dict)
    held_out: dict[str, float] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        return {
            "number": self.number,
            "values": self.values,
            "state": self.state,
            "score": self.score,
            "why": self.why,
            "wall_s": self.wall_s,
            "metrics": self.figures,
            "held_out": self.held_out,
        }


@dataclass(frozen=True)
class SweepResult:
    """The end of a search. `importances` are shares, by key, the largest first; empty while there are too few trials to tell.
    `config` is the best config, `model` what the best trial trained, `kept` the user's own file that stood at `config`, under its
    new name."""

    study: str
    folder: Path
    metric: str
    trials: Sequence[Trial]
    best: Trial
    importances: dict[str, float]
    config: Path
    model: Path
    kept: Path | None = None

    def as_dict(self, project: Project) -> dict[str, Any]:
        """As `sweep --json` prints it."""
        paths = {"config": project.shown(self.config), "model": project.shown(self.model)}
        return {
            "study": self.study,
            "folder": project.shown(self.folder),
            "metric": self.metric,
            "trials": [trial.as_dict() for trial in self.trials],
            "best": {**self.best.as_dict(), **paths},
            "importances": self.importances,
        }


def trial_of(trial: optuna.trial.FrozenTrial, sweep: Sweep) -> Trial:
    """What is known of one trial of the store."""
    from optuna.trial import TrialState

    states: dict[Any, State] = {
        TrialState.COMPLETE: "complete",
        TrialState.PRUNED: "pruned",
        TrialState.FAIL: "failed",
    }
    whole = trial.params.keys() == sweep.search_space.keys()
    attributes = trial.user_attrs
    return Trial(
        trial.number,
        space.decoded(sweep.search_space, trial.params) if whole else {},
        states.get(trial.state, "running"),
        trial.value if trial.state == TrialState.COMPLETE else None,
        attributes.get("why", ""),
        attributes.get("wall_s"),
        attributes.get("figures", {}),
        {f"{percent} %": value for percent, value in sorted(trial.intermediate_values.items())},
    )


def trials_of(place: StudyFolder, sweep: Sweep) -> list[Trial]:
    """The trials of a study that is there."""
    return [trial_of(t, sweep) for t in open_existing(place).get_trials(deepcopy=False)]


def conclude(setting: TrialSettings, sweep: Sweep, place: StudyFolder, study: optuna.Study, best: int) -> SweepResult:
    """Writes trials.json and importances.svg into the study, and the config of the trial `best` beside the config."""
    trials = [trial_of(trial, sweep) for trial in study.get_trials(deepcopy=False)]
    importances = importances_of(study)
    config, kept = _write_best(setting, trials[best])
    model = model_folder(load_workflow(config), replace(setting.project, output=place.trial_folder(best)), setting.stage)
    found = SweepResult(
        place.name, place.folder, setting.metric, trials, trials[best], importances, config, model, kept
    )
    write_json(place.folder / TRIALS, found.as_dict(setting.project))
    if importances:
        write_text(place.folder / IMPORTANCES, chart(importances, setting.metric))
    return found


def importances_of(study: optuna.Study) -> dict[str, float]:
    """What share each key has in a trial's being among the best tenth, by PED-ANOVA (https://arxiv.org/abs/2304.10255), which asks no
    more of the others than that they are worse: trials that were pruned count as the worst one. Empty for too few trials."""
    import optuna
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
    from optuna.study import StudyDirection
    from optuna.trial import TrialState, create_trial

    over = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
    scores = [t.value for t in over if t.state == TrialState.COMPLETE and t.value is not None]
    if len(over) < _ENOUGH or len(set(scores)) < 2:
        return {}
    worst = max(scores) if study.direction == StudyDirection.MINIMIZE else min(scores)
    compared = optuna.create_study(direction=study.direction)
    for t in over:
        value = t.value if t.state == TrialState.COMPLETE else worst
        compared.add_trial(create_trial(params=t.params, distributions=t.distributions, value=value))
    found = get_param_importances(compared, evaluator=PedAnovaImportanceEvaluator())
    return {key: round(share, 4) for key, share in found.items()} if sum(found.values()) > 0 else {}


def _write_best(setting: TrialSettings, best: Trial) -> tuple[Path, Path | None]:
    """The config with the values of `best`, beside it, where its relative paths hold. What the user has made of an earlier one is
    kept under another name, which is returned too."""
    config = setting.project.config
    values = {full_key(key, setting.stage): value for key, value in best.values.items()}
    form = parse_config(read_source(config), Overrides(values=values))
    target = config.with_name(f"{config.stem}.best.json")
    text = canonical_text(form.draft, target)
    written = setting.project.gen_model / FOLDER / WRITTEN
    known = json.loads(written.read_text(encoding="utf-8")) if written.is_file() else {}
    kept = replace_unless_edited(target, text, known.get(target.name))
    write_json(written, {**known, target.name: digest(text)})
    return target, kept


def chart(importances: dict[str, float], metric: str) -> str:
    """The importances as a bar chart, an SVG that needs nothing but itself."""
    left, width, bar, gap, top = 8 + 7 * max(map(len, importances)), 320, 18, 10, 44
    height = top + len(importances) * (bar + gap) + 8
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + width + 80}" height="{height}" '
        'font-family="system-ui, sans-serif" font-size="13">',
        '<rect width="100%" height="100%" fill="#ffffff"/>',
        f'<text x="8" y="24" font-size="15" fill="#222222">What mattered for {escape(metrics.text(metric))}</text>',
    ]
    for i, (key, share) in enumerate(importances.items()):
        y = top + i * (bar + gap)
        lines += [
            f'<text x="{left}" y="{y + 14}" text-anchor="end" fill="#222222">{escape(key)}</text>',
            f'<rect x="{left + 8}" y="{y}" width="{max(1, round(width * share))}" height="{bar}" fill="#3b6ea8"/>',
            f'<text x="{left + 14 + round(width * share)}" y="{y + 14}" fill="#222222">{100 * share:.0f} %</text>',
        ]
    return "\n".join([*lines, "</svg>"]) + "\n"
