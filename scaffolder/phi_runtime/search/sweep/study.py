"""A study: all trials of one search space over one config, in gen-model/sweep/<name>/.

study.db is Optuna's own store (SQLite). study.json says what the trials have in common; where that is other now, trials could not be
compared, and a new study begins. One process alone writes to a study: the one that holds the project's lock.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phi_runtime.config.pass_graph import with_ancestors
from phi_runtime.config.schema import SearchStrategy, Sweep, Workflow, canonical
from phi_runtime.core.artifacts import digest, write_json
from phi_runtime.core.errors import MissingDependency
from phi_runtime.core.project import Project
from phi_runtime.data.dataset import fingerprint
from phi_runtime.data.hooks import training_key
from phi_runtime.pipeline.changes import describe_changes
from phi_runtime.search.sweep.metric import VALIDATION_LOSS, minimised

if TYPE_CHECKING:
    import optuna

FOLDER, FACTS, STORE = "sweep", "study.json", "study.db"
RECORD = "runs"  # of a trial's folder, what stays when the trial is over
STARTUP_TRIALS = 5  # at most so many go to the end before any is compared


@dataclass(frozen=True)
class StudyFolder:
    """Where a study lies. `why` says, for a new one that is not the first, what is other than in the one before."""

    folder: Path
    inputs: Mapping[str, Any]
    new: bool
    why: str = ""

    @property
    def name(self) -> str:
        return self.folder.name

    def trial_folder(self, number: int) -> Path:
        """What the trial makes lies here, as in a gen-model/ of its own."""
        return self.folder / f"trial-{number:04d}"


def inputs_of(workflow: Workflow, project: Project, sweep: Sweep, trained: str, metric: str) -> dict[str, Any]:
    """All that the trials of a study share and that shapes their scores. `workflow` has some value of the search at each of its keys,
    always the same, so that what stands in the config there makes no difference."""
    training = workflow.trainings[trained]
    grid = sweep.search_strategy.type == "grid"
    unused = set() if grid else {"points"}
    inputs: dict[str, Any] = {
        "input": canonical(workflow.input_model),
        "passes": {name: canonical(workflow.passes[name]) for name in sorted(with_ancestors(workflow.passes, trained))},
        "data_config": {name: canonical(workflow.data_config(name)) for name in sorted(training.data_names)},
        "data": fingerprint(workflow, training, project.config),
        "hooks": training_key(project.config),
        "search_space": {k: v.model_dump(mode="json", exclude=unused) for k, v in sweep.search_space.items()},
        "grid": grid,
        "device": workflow.host_device,
        "metric": metric,
    }
    if metric != VALIDATION_LOSS:
        inputs["evaluation"] = canonical(workflow.evaluation.of(trained))
    return inputs


def find(project: Project, inputs: Mapping[str, Any]) -> StudyFolder:
    """The study of these inputs, or where a new one is to lie."""
    root, key = project.gen_model / FOLDER, digest(inputs)
    studies = sorted((number, path) for path in root.glob("study-*") if (number := _number(path)))
    known = [(path, _facts(path)) for _, path in studies]
    for path, facts in reversed(known):
        if facts.get("key") == key:
            return StudyFolder(path, inputs, new=False)
    why = ""
    if known and known[-1][1]:
        why = describe_changes(known[-1][1]["inputs"], inputs, {}, {})
    return StudyFolder(root / f"study-{studies[-1][0] + 1 if studies else 1}", inputs, new=True, why=why)


def _number(path: Path) -> int:
    text = path.name.rpartition("-")[2]
    return int(text) if text.isdigit() else 0


def _facts(folder: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads((folder / FACTS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found


def open_study(place: StudyFolder, strategy: SearchStrategy, limit: int) -> optuna.Study:
    """Optuna's study in `place`, made where there is none. `limit` is the number of trials that are to be, which says how many of
    them go to the end before any is pruned."""
    optuna = library()
    place.folder.mkdir(parents=True, exist_ok=True)
    if place.new:
        write_json(place.folder / FACTS, {"key": digest(place.inputs), "inputs": place.inputs})
    metric = place.inputs["metric"]
    startup = max(1, min(STARTUP_TRIALS, limit // 4))
    pruners = optuna.pruners
    pruner = pruners.NopPruner() if strategy.pruner == "none" else pruners.MedianPruner(n_startup_trials=startup)
    return optuna.create_study(
        storage=_storage(place),
        study_name=place.name,
        direction="minimize" if minimised(metric) else "maximize",
        pruner=pruner,
        load_if_exists=True,
    )


def open_existing(place: StudyFolder) -> optuna.Study:
    """The study in `place`, to look at."""
    return library().load_study(storage=_storage(place), study_name=place.name)


def _storage(place: StudyFolder) -> Any:
    from sqlalchemy import URL

    url = URL.create("sqlite", database=str(place.folder / STORE))  # which quotes what a folder may be called
    return library().storages.RDBStorage(url.render_as_string(hide_password=False))


def library() -> Any:
    """Optuna. Raises MissingDependency where it is not installed."""
    try:
        import optuna
    except ImportError as e:
        raise MissingDependency(
            f"a search needs the package optuna ({e})",
            fix=f"{sys.executable} -m pip install 'optuna>=5,<6'",
        ) from None
    return optuna


def tidy(folder: Path, *, keep_model: bool = False) -> None:
    """Removes what a trial that is over needs no more: checkpoints and, unless it is the best, its model. Its record stays."""
    for path in folder.iterdir() if folder.is_dir() else ():
        unfinished = path.name.startswith(".")
        if path.name != RECORD and (unfinished or not keep_model):
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
