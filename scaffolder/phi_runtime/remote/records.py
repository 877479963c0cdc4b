"""The jobs of a project, as they were submitted: gen-model/remote/NAME/ with the submitted files and record.json."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from phi_runtime.core.artifacts import read_json, write_json, write_text
from phi_runtime.core.errors import UsageError
from phi_runtime.core.project import ProjectFolder
from phi_runtime.core.suggestions import did_you_mean
from phi_runtime.remote.job import RemoteJob

FOLDER = "remote"
RECORD = "record.json"


@dataclass(frozen=True)
class JobRecord:
    """A submitted job; `settings` are those with which its engine finds it again. No secret is in it."""

    name: str
    engine: str
    stages: tuple[str, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)
    submitted_at: str = ""


def write_record(
    project: ProjectFolder, job: RemoteJob, engine: str, settings: Mapping[str, Any], files: Mapping[str, str]
) -> JobRecord:
    """Record a submitted job with the files that were submitted."""
    stages = tuple(dict.fromkeys(stage for step in job.steps for stage in step.stages))
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    record = JobRecord(job.name, engine, stages, dict(settings), now)
    folder = project.gen_model / FOLDER / job.name
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        write_text(folder / name, text)
    write_json(folder / RECORD, asdict(record))
    return record


def read_records(project: ProjectFolder) -> list[JobRecord]:
    """Return the jobs of a project, the newest first."""
    found = []
    for file in (project.gen_model / FOLDER).glob(f"*/{RECORD}"):
        try:
            raw = read_json(file)
            record = JobRecord(
                str(raw["name"]),
                str(raw["engine"]),
                tuple(raw["stages"]),
                dict(raw["settings"]),
                str(raw["submitted_at"]),
            )
        except (OSError, ValueError, KeyError, TypeError):
            continue
        found.append(record)
    return sorted(found, key=lambda record: record.submitted_at, reverse=True)


def find_record(project: ProjectFolder, name: str | None = None) -> JobRecord:
    """Return the job `name` of a project, or its last one.

    Raises:
        UsageError: There is none.
    """
    records = read_records(project)
    if not records:
        raise UsageError(
            "no job was submitted from this project", fix="submit one: phi-scaffold run --on slurm, or --on azureml"
        )
    if name is None:
        return records[0]
    for record in records:
        if record.name == name:
            return record
    names = [record.name for record in records]
    raise UsageError(f"no job `{name}`{did_you_mean(name, names)}", fix=f"use one of {', '.join(names[:5])}")
