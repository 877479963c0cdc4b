"""The runs of a project, as recorded in gen-model/runs/ (`pipeline/run_record.py`). Records of older versions lack some files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from phi_runtime.core.artifacts import read_json, read_manifest, read_object
from phi_runtime.core.errors import UsageError
from phi_runtime.core.locks import is_held
from phi_runtime.core.project import ProjectFolder
from phi_runtime.core.suggestions import did_you_mean
from phi_runtime.evaluation.metrics import main_result
from phi_runtime.evaluation.row_results import RESULTS, ROWS, RowResult, read_rows
from phi_runtime.pipeline.run_record import CONFIG, ENVIRONMENT, RECORD, STAGES, RunState
from phi_runtime.pipeline.stage import EVALUATION_FOLDER

LATEST = ("latest", "-1")
_ID_FORMAT = "%Y%m%d-%H%M%S-%f"


@dataclass(frozen=True)
class MainScore:
    """The main metric of a model; of free text, its perplexity.

    Attributes:
        interval: Its 95 % confidence interval; None if it cannot be computed.
        rows: Measured rows.
        total_rows: Rows of the side that they come from.
    """

    model: str
    metric: str
    value: float
    interval: tuple[float, float] | None
    rows: int
    total_rows: int

    def as_dict(self) -> dict[str, Any]:
        return {**vars(self), "interval": list(self.interval) if self.interval else None}


@dataclass(frozen=True)
class RecordedEvaluation:
    """An evaluation of a run.

    Attributes:
        name: Training pass; "" in a record of an older version.
        content: evaluation.json.
        folder: Folder with evaluation.json and rows.jsonl.
    """

    name: str
    content: dict[str, Any]
    folder: Path

    @property
    def scores(self) -> list[MainScore]:
        """The main score of each baseline and model, in the order of the comparison."""
        content, found = self.content, []
        for model in (*content.get("baselines", []), *content["models"]):
            metric, value, interval = main_result(content["task"], model)
            assert value is not None
            bounds = (interval[0], interval[1]) if interval else None
            found.append(MainScore(model["name"], metric, value, bounds, content["rows"], content["total_rows"]))
        return found

    @cached_property
    def rows(self) -> list[RowResult]:
        """The results row by row; empty if they are missing."""
        try:
            return read_rows(self.folder / ROWS)
        except (OSError, ValueError, TypeError, KeyError):
            return []


@dataclass(frozen=True)
class RecordedRun:
    """One run.

    Attributes:
        folder: gen-model/runs/<id>/.
        record: run.json; empty in a record of an older version, and if the file is damaged.
    """

    project: ProjectFolder
    folder: Path
    record: dict[str, Any]

    @property
    def id(self) -> str:
        return self.folder.name

    @property
    def started(self) -> str:
        """Start as ISO 8601; of an older record, from the name of its folder."""
        if started := self.record.get("started"):
            return str(started)
        return time.astimezone().isoformat(timespec="seconds") if (time := self.time) else ""

    @property
    def time(self) -> datetime | None:
        """The local time in the id of the run."""
        try:
            return datetime.strptime(self.id, _ID_FORMAT)
        except ValueError:
            return None

    @property
    def state(self) -> RunState:
        """`interrupted` is also a run that was killed."""
        if "state" not in self.record:
            is_failed = any(self.folder.glob("*.error.log"))
            return "failed" if is_failed else "done" if self.stages else "interrupted"
        state: RunState = self.record["state"]
        return "interrupted" if state == "running" and not is_held(self.project.run_lock) else state

    @cached_property
    def config(self) -> dict[str, Any]:
        """The config as it was used, with `evaluation`."""
        return read_object(self.folder / CONFIG)

    @cached_property
    def environment(self) -> dict[str, Any]:
        return read_object(self.folder / ENVIRONMENT)

    @cached_property
    def stages(self) -> list[dict[str, Any]]:
        """The stages that were finished, with time and memory."""
        try:
            stages = read_json(self.folder / STAGES)
        except (OSError, ValueError):
            return []
        return [stage for stage in stages if isinstance(stage, dict)]

    @property
    def wall_s(self) -> float:
        """Seconds that the finished stages took."""
        return round(sum(stage.get("wall_s", 0.0) for stage in self.stages), 2)

    @property
    def model(self) -> str:
        """Name of the base model."""
        base = self.record.get("base_model") or {}
        path = self.config.get("input_model", {}).get("model_path")
        return str(base.get("name") or (Path(path).name if isinstance(path, str) else ""))

    @property
    def trainings(self) -> dict[str, dict[str, Any]]:
        """The passes that train, by name."""
        return {name: step for name, step in self.config.get("passes", {}).items() if "train_data_config" in step}

    @property
    def outputs(self) -> dict[str, dict[str, Any]]:
        """The output of each stage that was finished or cached, with its `content`."""
        outputs: dict[str, dict[str, Any]] = self.record.get("outputs", {})
        return outputs or {stage["stage"]: {**stage, "content": None, "facts": {}} for stage in self.stages}

    def is_current(self, stage: str) -> bool | None:
        """Return True if the output of `stage` is still the one of this run; None if the record does not say."""
        output = self.outputs[stage]
        if output.get("content") is None:
            return None
        manifest = read_manifest(self.project.root / output["output"])
        return manifest is not None and manifest.content == output["content"]

    @cached_property
    def evaluations(self) -> list[RecordedEvaluation]:
        """The evaluations of the run: those in its folder, and large ones that are still in gen-model/."""
        folders = {path.parent.name: path.parent for path in self.folder.glob(f"{EVALUATION_FOLDER}*/{RESULTS}")}
        for stage, output in self.record.get("outputs", {}).items():
            folder = self.project.root / output["output"]
            if (folder / RESULTS).is_file() and self.is_current(stage):
                folders.setdefault(folder.name, folder)
        found = []
        for name, folder in sorted(folders.items()):
            content = read_object(folder / RESULTS)
            if content.keys() >= {"task", "rows", "total_rows", "models"}:
                suffix = name.removeprefix(EVALUATION_FOLDER).removeprefix("-")
                found.append(RecordedEvaluation(suffix or next(iter(self.trainings), ""), content, folder))
        return found

    @property
    def score(self) -> MainScore | None:
        """The main score of the last model of the first evaluation; None without one."""
        scores = self.evaluations[0].scores if self.evaluations else []
        return scores[-1] if scores else None


def read_runs(project: ProjectFolder) -> list[RecordedRun]:
    """Return the runs of a project, newest first."""
    folders = sorted((path for path in project.runs.glob("*") if path.is_dir()), reverse=True)
    return [RecordedRun(project, folder, read_object(folder / RECORD)) for folder in folders]


def find_run(project: ProjectFolder, name: str) -> RecordedRun:
    """Return the run that `name` is the id of, or the beginning of the id of; `latest` or `-1` is the newest, `-2` the one before.

    Raises:
        UsageError: There is no such run, or there are several.
    """
    runs = read_runs(project)
    if not runs:
        raise UsageError(f"{project.shown(project.runs)} has no run", fix="phi-scaffold run")
    number = 1 if name in LATEST else int(name[1:]) if name[:1] == "-" and name[1:].isdigit() else 0
    if number and number <= len(runs):
        return runs[number - 1]
    matches = [run for run in runs if name and run.id.startswith(name)]
    exact = [run for run in matches if run.id == name]
    if len(matches) == 1 or exact:
        return (exact or matches)[0]
    ids = [run.id for run in runs]
    if matches:
        raise UsageError(f"{len(matches)} runs begin with `{name}`", fix=f"use one of {_shown(matches)}")
    raise UsageError(
        f"no run is called `{name}`{did_you_mean(name, ids)}", fix=f"use `latest`, or one of {_shown(runs)}"
    )


def run_before(run: RecordedRun) -> RecordedRun | None:
    """Return the run before `run` in its project."""
    return next((other for other in read_runs(run.project) if other.id < run.id), None)


def _shown(runs: Sequence[RecordedRun]) -> str:
    more = ", …" if len(runs) > 5 else ""
    return ", ".join(run.id for run in runs[:5]) + more
