"""A study: all trials of one search space over one config, in gen-model/sweep/<name>/.

study.db is Optuna's storage (SQLite). study.json holds what the trials have in common; if that changes, trials
cannot be compared and a new study begins. Only the process that holds the project's lock writes to a study.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phi_runtime.config.confusions import MEAN_COST
from phi_runtime.config.pass_graph import with_ancestors
from phi_runtime.config.schema import SearchStrategy, Sweep, Workflow, canonical
from phi_runtime.core.artifacts import delete_folder, digest, read_object, write_json
from phi_runtime.core.errors import MissingDependency, PhiError, WorkFailed
from phi_runtime.core.os_failures import full_disk, is_full
from phi_runtime.core.project import ProjectFolder, setup_command
from phi_runtime.models.fetch import present
from phi_runtime.passes.input_adapter import InputAdapter
from phi_runtime.pipeline.changes import describe_changes
from phi_runtime.pipeline.stage import data_inputs
from phi_runtime.search.sweep.metric import VALIDATION_LOSS, is_minimized

if TYPE_CHECKING:
    import optuna

FOLDER, FACTS, STORAGE = "sweep", "study.json", "study.db"
RECORD = "runs"  # the part of a trial's folder that stays after the trial
STARTUP_TRIALS = 5  # at most so many trials run to the end before any is pruned


@dataclass(frozen=True)
class StudyFolder:
    """The folder of a study; `why` says what changed since the previous study."""

    folder: Path
    inputs: Mapping[str, Any]
    new: bool
    why: str = ""

    @property
    def name(self) -> str:
        return self.folder.name

    def trial_folder(self, number: int) -> Path:
        """Return the folder that is the gen-model/ of a trial."""
        return self.folder / f"trial-{number:04d}"


def study_inputs(workflow: Workflow, project: ProjectFolder, sweep: Sweep, trained: str, metric: str) -> dict[str, Any]:
    """Return everything that the trials of a study share and that shapes their scores.

    Args:
        workflow: The workflow with a fixed value at each key of the search space, so that the values that the
            config has there make no difference.
    """
    training = workflow.trainings[trained]
    ancestors = {name: workflow.passes[name] for name in sorted(with_ancestors(workflow.passes, trained))}
    grid = sweep.search_strategy.type == "grid"
    unused = set() if grid else {"points"}
    inputs: dict[str, Any] = {
        "input": canonical(workflow.input_model),
        "passes": {name: canonical(step) for name, step in ancestors.items()},
        "hooks": "",
        **data_inputs(workflow, training.data_names, project),
        "search_space": {k: v.model_dump(mode="json", exclude=unused) for k, v in sweep.search_space.items()},
        "grid": grid,
        "device": workflow.host_device,
        "metric": metric,
    }
    inputs["passes"][trained].pop("test_data_config", None)  # read by no trial
    if base := present(workflow.input_model, project):  # else it is downloaded by the first trial
        inputs["base"] = base.key
    for step in ancestors.values():
        inputs |= (isinstance(step, InputAdapter) and step.inputs(workflow)) or {}
    if metric != VALIDATION_LOSS:
        evaluation = workflow.evaluation.of(trained)
        own = evaluation.own_metrics if metric in (MEAN_COST, *evaluation.combined) else {}
        inputs["evaluation"] = canonical(evaluation) | own
    return inputs


def find_study(project: ProjectFolder, inputs: Mapping[str, Any]) -> StudyFolder:
    """Return the study with these inputs, or the folder for a new one."""
    root = project.gen_model / FOLDER
    # A study that began before its base model was downloaded has no key of it.
    keys = {True: digest(inputs), False: digest({name: value for name, value in inputs.items() if name != "base"})}
    begun = (path for path in root.glob("study-*") if any((path / name).exists() for name in (FACTS, STORAGE)))
    studies = sorted((number, path) for path in begun if (number := _number(path)))
    known = [(path, read_object(path / FACTS)) for _, path in studies]
    for path, facts in reversed(known):
        if facts and facts["key"] == keys["base" in facts["inputs"]]:
            return StudyFolder(path, inputs, new=False)
    why = ""
    if known and known[-1][1]:
        why = describe_changes(known[-1][1]["inputs"], inputs, {}, {})
    return StudyFolder(root / f"study-{studies[-1][0] + 1 if studies else 1}", inputs, new=True, why=why)


def _number(path: Path) -> int:
    text = path.name.rpartition("-")[2]
    return int(text) if text.isdigit() else 0


def open_study(place: StudyFolder, strategy: SearchStrategy, limit: int) -> optuna.Study:
    """Open the Optuna study in `place`; create it if it is new.

    Args:
        limit: The total number of trials, which determines how many run to the end before pruning starts.
    """
    optuna = require_optuna()
    place.folder.mkdir(parents=True, exist_ok=True)
    facts = {"key": digest(place.inputs), "inputs": place.inputs}
    if read_object(place.folder / FACTS).get("key") != facts["key"]:
        write_json(place.folder / FACTS, facts)
    startup = max(1, min(STARTUP_TRIALS, limit // 4))
    pruners = optuna.pruners
    pruner = pruners.NopPruner() if strategy.pruner == "none" else pruners.MedianPruner(n_startup_trials=startup)
    return optuna.create_study(
        storage=_storage(place),
        study_name=place.name,
        direction="minimize" if is_minimized(place.inputs["metric"]) else "maximize",
        pruner=pruner,
        load_if_exists=True,
    )


def load_study(place: StudyFolder) -> optuna.Study:
    """Load an existing study to read it."""
    return require_optuna().load_study(storage=_storage(place), study_name=place.name)


@contextmanager
def storage_failures(place: StudyFolder) -> Iterator[None]:
    """Turn errors of the storage of `place` into ones that a user can act on.

    Raises:
        OutOfResources: The disk is full.
        WorkFailed: The storage cannot be read or written.
    """
    try:
        yield
    except PhiError:  # it names its cause already, which may be the database of a tracker
        raise
    except Exception as e:
        error: BaseException | None = e
        while error and not isinstance(error, sqlite3.Error):
            error = error.__cause__
        if error is None:
            raise
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # without the bits that say more
        if code == sqlite3.SQLITE_FULL or (code == sqlite3.SQLITE_IOERR and is_full(place.folder)):
            raise full_disk("`sweep`", place.folder) from e
        is_used = code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
        raise WorkFailed(
            f"cannot use {place.folder / STORAGE}: {error}",
            fix="end the program that uses it"
            if is_used
            else f"move {place.folder} away: the next sweep begins a new study",
        ) from e


def _storage(place: StudyFolder) -> Any:
    from sqlalchemy import URL

    url = URL.create("sqlite", database=str(place.folder / STORAGE))  # quotes special characters of the folder
    return require_optuna().storages.RDBStorage(url.render_as_string(hide_password=False))


def require_optuna() -> Any:
    """Import Optuna. Raises MissingDependency if it is not installed."""
    try:
        import optuna
    except ImportError as e:
        raise MissingDependency(
            f"`sweep` needs the package optuna ({e})",
            fix=f"run `{setup_command('sweep')}` in the project",
        ) from None
    return optuna


def remove_leftovers(folder: Path, *, keep_model: bool = False) -> None:
    """Remove the checkpoints of a finished trial and, unless it is the best one, its model; its record stays."""
    for path in folder.iterdir() if folder.is_dir() else ():
        unfinished = path.name.startswith(".")
        if path.name != RECORD and (unfinished or not keep_model):
            with suppress(OSError):
                delete_folder(path) if path.is_dir() else path.unlink()
