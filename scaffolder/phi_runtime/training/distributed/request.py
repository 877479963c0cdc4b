"""The request that the processes of a training read, and the errors that they leave behind.

Both are JSON files: reading them runs no code, and processes that share one pipe cannot mix up a file.
"""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from phi_runtime.config.overrides import Overrides
from phi_runtime.config.schema import Workflow, canonical
from phi_runtime.context import PassContext
from phi_runtime.core.artifacts import file_digest, read_json, write_json
from phi_runtime.core.errors import ConfigError, Location, PhiError, from_wire, to_wire
from phi_runtime.core.events import silent
from phi_runtime.core.project import ProjectFolder
from phi_runtime.core.wire import from_json, to_json
from phi_runtime.models.reference import ModelRef
from phi_runtime.workers.failures import failure_from_exception

FILE = "request.json"


@dataclass(frozen=True)
class TrainingRequest:
    """A pass to train: the fields of its `PassContext`, and the digest of the config file that it is in."""

    name: str
    config_digest: str
    workflow: dict[str, Any]
    source: ModelRef
    out: Path
    work: Path
    project: ProjectFolder
    overrides: Overrides
    record: Path | None


def write_request(context: PassContext, folder: Path) -> Path:
    """Write the pass of `context` into `folder` and return the file."""
    workflow = context.workflow
    sidecars = {"evaluation": canonical(workflow.evaluation), "sweep": workflow.sweep and canonical(workflow.sweep)}
    request = TrainingRequest(
        context.name,
        file_digest(context.project.config),
        canonical(workflow) | sidecars,
        context.source,
        context.out,
        context.work,
        context.project,
        context.overrides,
        context.record,
    )
    path = folder / FILE
    write_json(path, to_json(request))
    return path


def read_request(path: Path) -> PassContext:
    """Return the context of the pass that `write_request` described.

    Raises:
        ConfigError: The config file has changed since then.
    """
    request = from_json(TrainingRequest, read_json(path))
    name, project = request.name, request.project
    if file_digest(project.config) != request.config_digest:
        raise ConfigError(
            f"the config of `{name}` was changed after this run began", where=Location(project.config), fix="run again"
        )
    workflow, overrides = Workflow.model_validate(request.workflow), request.overrides
    paths = (request.out, request.work)
    return PassContext(
        name, workflow.passes[name], request.source, *paths, workflow, project, silent, overrides, request.record
    )


# -- errors ------------------------------------------------------------------------------------------------------------


def keep_error(error: BaseException, request: Path, rank: str) -> None:
    """Leave `error` of the process `rank` for `errors_of`, with its traceback."""
    name = read_json(request)["name"] if request.is_file() else "training"
    trace = "".join(traceback.format_exception(error))
    wire = to_wire(failure_from_exception(error, f"`{name}`"))
    write_json(request.with_name(f"error-{rank}.json"), {"error": wire, "note": f"in process {rank}:\n{trace}"})


def errors_of(request: Path) -> list[PhiError]:
    """Return the errors that the processes of `request` left, in order of time."""
    files = sorted(request.parent.glob("error-*.json"), key=lambda file: file.stat().st_mtime_ns)
    errors = []
    for file in files:
        kept = read_json(file)
        errors.append(from_wire(kept["error"]))
        errors[-1].add_note(kept["note"])
    return errors


def forget_errors(request: Path) -> None:
    """Delete the errors of an earlier run."""
    for file in request.parent.glob("error-*.json"):
        file.unlink()
