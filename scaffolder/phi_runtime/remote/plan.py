"""From a canonical workflow to a `RemoteJob`: no client, no network, no account."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from phi_runtime.config.paths import data_paths, datastore_place
from phi_runtime.config.schema import Datastore, Workflow
from phi_runtime.core.errors import Location, UsageError
from phi_runtime.core.project import GEN_MODEL, ProjectFolder
from phi_runtime.models.place import base_model_path, download_id
from phi_runtime.remote.engine import RemoteEngine, Status
from phi_runtime.remote.job import Input, InputKind, RemoteJob, Step, job_key, job_label
from phi_runtime.remote.snapshot import Snapshot, SnapshotFile, project_files


def plan_job(
    project: ProjectFolder,
    workflow: Workflow,
    steps: Sequence[Step],
    *,
    package: Sequence[SnapshotFile] = (),
    tags: Mapping[str, str] | None = None,
    upload: bool = False,
    timeout_s: int | None = None,
) -> RemoteJob:
    """Return the job that runs `steps` in order, each on its machines.

    Args:
        steps: The commands, without `--nproc` and inputs; each after the first starts from the gen-model/ of the one before.
        package: Files of phi-scaffold for machines that do not have it.
        upload: Send local data and a local base model as inputs, and not in the snapshot.

    Raises:
        UsageError: A file may not be sent, or a pass is of a package that the job does not have.
    """
    _require_own_passes(project, workflow)
    inputs = [*_data_inputs(project, workflow, upload=upload), *_model_inputs(project, workflow, upload=upload)]
    skipped = frozenset(each.local for each in inputs if each.local)
    snapshot = Snapshot((*project_files(project, workflow, skipped).files, *package))
    before = ("", *(step.name for step in steps))
    complete = tuple(
        replace(step, arguments=(*step.arguments, *step.machines.arguments), inputs=tuple(inputs), after=name)
        for name, step in zip(before, steps, strict=False)
    )
    key = job_key(complete, snapshot)
    return RemoteJob(
        f"{job_label(project.root)}-{key[:12]}",
        project.root,
        complete,
        snapshot,
        project.gen_model.relative_to(project.root).as_posix() if project.output else GEN_MODEL,
        {"phi-scaffold": key, **(tags or {})},
        timeout_s,
    )


def find_attempt(engine: RemoteEngine, job: RemoteJob, *, again: bool = False) -> tuple[RemoteJob, Status | None]:
    """Return the attempt of `job` that runs or is done, with its status; or else the first name that is free, and None.

    A job of the same name has done the work already, or is doing it. The names of failed jobs stay taken.

    Args:
        engine: The engine to submit to.
        job: The job, under the name of its first attempt.
        again: Run it again even if an attempt is done.
    """
    attempt = job
    for number in itertools.count(2):
        status = engine.status(attempt.name)
        if status is None or not (status.state in ("failed", "canceled") or (status.state == "done" and again)):
            break
        attempt = replace(job, name=f"{job.name}-{number}")
    return attempt, status


def _data_inputs(project: ProjectFolder, workflow: Workflow, *, upload: bool) -> list[Input]:
    inputs: list[Input] = []
    for data in workflow.data_configs:
        files = data.load_dataset_config.data_files
        if isinstance(files, Datastore):
            place = project.shown(datastore_place(data, project.config))
            inputs.append(Input(_identifier(data.name), "file", files.address, place))
        elif upload and data.load_dataset_config.format:
            local = [found.path for found in data_paths(data, project.config) if found.path.is_file()]
            for number, path in enumerate(local):
                name = data.name if number == 0 else f"{data.name}_{number}"
                _require_inside(path, project)
                inputs.append(Input(_identifier(name), "file", "", project.shown(path), path))
    return list({each.place: each for each in inputs}.values())


def _model_inputs(project: ProjectFolder, workflow: Workflow, *, upload: bool) -> list[Input]:
    model = workflow.input_model
    path = base_model_path(model, project)
    if not isinstance(model.model_path, str):
        kind: InputKind = "mlflow" if model.model_path.mlflow else "model"
        return [Input("base_model", kind, model.model_path.address, project.shown(path))]
    if download_id(model, project) is not None:
        return []  # the job downloads it
    if not upload:
        raise UsageError(
            f"the base model `{model.name}` is in a folder of this machine, which the job does not have",
            where=Location(project.config),
            fix="pass --upload, or name a model of the Hub or of a registry in `model_path`",
        )
    _require_inside(path, project)
    return [Input("base_model", "folder", "", project.shown(path), path)]


def _require_inside(path: Path, project: ProjectFolder) -> None:
    if not path.resolve().is_relative_to(project.root.resolve()):
        raise UsageError(
            f"`{path}` is outside of the project", where=Location(project.config), fix="move it into the project"
        )


def _require_own_passes(project: ProjectFolder, workflow: Workflow) -> None:
    for name, step in workflow.passes.items():
        module = type(step).__module__
        if step.written and not module.startswith("phi_runtime."):
            raise UsageError(
                f"`{name}` is a pass of the package of `{module}`, which the job does not have",
                where=Location(project.config),
                fix="run this pass here: --until the stage before it",
            )


def _identifier(name: str) -> str:
    """Return `name` as an identifier, which inputs of a job need."""
    identifier = re.sub(r"\W", "_", name, flags=re.ASCII)
    return identifier if identifier[:1].isalpha() else f"data_{identifier}"
