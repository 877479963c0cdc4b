"""`run` on other machines: plan the job, show what is sent, submit it once, and wait for its outputs.

For clusters that this machine cannot submit to, `emit` writes their files instead.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phi_runtime.core.errors import Location, UsageError
from phi_runtime.core.project import CONFIG, ProjectFolder
from phi_scaffold.remote.wait import notes, use_client, wait_and_download

if TYPE_CHECKING:
    from phi_runtime.config.schema import Workflow
    from phi_runtime.remote.engine import RemoteEngine, Status
    from phi_runtime.remote.job import RemoteJob
    from phi_runtime.remote.snapshot import SnapshotFile
    from phi_scaffold.cli.options import Flags

SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


@dataclass(frozen=True)
class Request:
    """Stages of `run` for another machine, and the flags that concern the job.

    Attributes:
        on: `slurm`, `azureml`, or the name of an Azure ML system of the config.
        time_limit: Text such as `4h`.
        sbatch: Options of sbatch, such as `partition=gpu`.
    """

    on: str = ""
    stages: Sequence[str] = ()
    until: str | None = None
    force: Sequence[str] = ()
    nproc: int = 1
    dry_run: bool = False
    detach: bool = False
    upload: bool = False
    time_limit: str | None = None
    sbatch: Sequence[str] = ()


def run_on_azureml(project: ProjectFolder, flags: Flags, request: Request) -> None:
    """Submit the stages as a job of Azure ML, and wait for its outputs."""
    from phi_runtime.pipeline.engine import select_stages
    from phi_runtime.pipeline.load import load_workflow
    from phi_runtime.remote.azureml.build import azureml_job
    from phi_runtime.remote.azureml.engine import AzureML
    from phi_runtime.remote.plan import find_attempt
    from phi_scaffold.new.template_files import setup_folder
    from phi_scaffold.show import remote as show

    _refuse_data(flags)
    overrides = replace(flags.overrides(remote=True), on_azureml=request.on)
    workflow = load_workflow(project.config, overrides)
    stages = select_stages(workflow, request.stages, request.until, request.force)
    if flags.on is None:
        _require_no_pass_here(workflow, stages)
    planned = azureml_job(
        project,
        workflow,
        on=request.on,
        selection=[*request.stages, *(["--until", request.until] if request.until else ())],
        stages=stages,
        arguments=[*_arguments(project, flags), "--json"],
        force=request.force,
        package=own_package(workflow.input_model.name),
        template_setup=setup_folder(),
        processes=request.nproc,
        upload=request.upload,
        timeout_s=_seconds(request.time_limit),
    )
    say = notes(flags)
    for note in planned.notes:
        say(f"warning: {note}")
    engine = AzureML(planned.workspace, say)
    if request.dry_run:
        show.azureml_dry_run(planned.job, engine.render(planned.job), as_json=flags.as_json)
        return
    use_client(project, flags)
    show.what_is_sent(planned.job, planned.workspace.name, say)
    job, found = find_attempt(engine, planned.job, again=bool(request.force))
    _finish(project, flags, request, engine, job, found, asdict(planned.workspace))


def run_on_slurm(project: ProjectFolder, flags: Flags, request: Request) -> None:
    """Submit the stages as a job of the Slurm cluster, and wait for its end."""
    from phi_runtime.core.signed_text import is_edited
    from phi_runtime.pipeline.engine import select_stages
    from phi_runtime.remote.slurm import SCRIPT, Slurm, slurm_job
    from phi_runtime.training.distributed.shares import check_shares
    from phi_scaffold.show import remote as show

    workflow = _workflow_of_cluster(project, flags)
    job = slurm_job(
        project,
        (*_command(request), *_arguments(project, flags), "--json", *_data(flags)),
        tuple(select_stages(workflow, request.stages, request.until, request.force)),
        workflow.host_device,
        request.nproc,
        list(request.sbatch),
        _seconds(request.time_limit),
    )
    check_shares(workflow, job.steps[0].machines.count * request.nproc)
    engine, say = Slurm(project), notes(flags)
    if is_edited(project.root / SCRIPT):
        say(f"{SCRIPT} was edited, and is submitted as it is")
    if request.dry_run:
        show.slurm_dry_run(job, engine.render(job), engine.command(job), as_json=flags.as_json)
        return
    _finish(project, flags, request, engine, job, engine.active(job), {})


def _finish(
    project: ProjectFolder,
    flags: Flags,
    request: Request,
    engine: RemoteEngine,
    job: RemoteJob,
    found: Status | None,
    settings: Mapping[str, Any],
) -> None:
    """Submit `job` unless it is `found` at the service, record it, and wait for its outputs."""
    from phi_runtime.remote.records import write_record
    from phi_scaffold.show import remote as show

    status, say = found or engine.submit(job), notes(flags)
    if found:
        say(f"job {status.name} is {status.state} already, and was not submitted again")
    else:
        say(f"submitted job {status.name}{f': {status.page}' if status.page else ''}")
    job = replace(job, name=status.name)
    record = write_record(project, job, engine.name, settings, engine.render(job))
    if request.detach:
        show.detached(status, flags.repeated(settings=False), as_json=flags.as_json)
    else:
        wait_and_download(project, flags, engine, record)


def emit(project: ProjectFolder, flags: Flags, request: Request, kinds: Sequence[str]) -> None:
    """Write the files of clusters that run the stages, and print the commands that submit them.

    Raises:
        UsageError: There is no such kind of cluster, or the run reads files that may not leave this machine.
        Conflict: The user has edited one of the files.
    """
    from phi_runtime.core.suggestions import one_of
    from phi_runtime.pipeline.engine import select_stages
    from phi_runtime.remote.cluster_files import KINDS, cluster_file, write_cluster_files
    from phi_scaffold.show import remote as show

    chosen = dict.fromkeys(one_of("--emit", kind, KINDS) for kind in kinds)
    _refuse_data(flags)
    workflow = _workflow_of_cluster(project, flags)
    stages = tuple(select_stages(workflow, request.stages, request.until, request.force))
    arguments = (*_command(request), *_arguments(project, flags))
    files = [cluster_file(project, workflow, kind, arguments, stages, request.nproc) for kind in chosen]
    write_cluster_files(project, files)
    show.emitted(files, as_json=flags.as_json)


def _workflow_of_cluster(project: ProjectFolder, flags: Flags) -> Workflow:
    """Load the workflow for machines that run it as this one would. Raises UsageError if its host is an Azure ML system."""
    from phi_runtime.pipeline.load import load_workflow

    workflow = load_workflow(project.config, flags.overrides(remote=True))
    if workflow.remote:
        fix = "set `host` to a system of type LocalSystem with the device of the cluster's nodes"
        raise UsageError(f"`host` is the Azure ML system `{workflow.remote}`", where=Location(project.config), fix=fix)
    return workflow


def _refuse_data(flags: Flags) -> None:
    if flags.data:
        raise UsageError("--data reads a file of this machine", fix="name the file in `data_files` of the config")


def _require_no_pass_here(workflow: Workflow, stages: Sequence[str]) -> None:
    """Raise UsageError if one of the stages runs on this machine, for which nobody has requested Azure ML."""
    from phi_runtime.config.schema import AzureMLSystem

    hosts = {name: workflow.host_of(name) for name in stages if name in workflow.passes}
    here = [name for name, host in hosts.items() if not isinstance(workflow.systems[host], AzureMLSystem)]
    if here:
        there = next(name for name in workflow.passes if workflow.host_of(name) == workflow.remote)
        raise UsageError(
            f"`{here[0]}` runs on this machine, and `{there}` on `{workflow.remote}`",
            fix=f"phi-scaffold run --on azureml --until {there}, then phi-scaffold run --on local",
        )


def own_package(base_model: str) -> SnapshotFile:
    """Return phi-scaffold itself for a job; the tokenizers of embedded models only if `base_model` is one."""
    import phi_runtime
    import phi_scaffold
    from phi_runtime.models.embedded import EMBEDDED
    from phi_runtime.models.place import cached_part
    from phi_runtime.remote.package import package

    used = cached_part(base_model)
    tokenizers = [model.tokenizer for name, model in EMBEDDED.items() if name != used]
    folders = [Path(str(module.__file__)).parent for module in (phi_runtime, phi_scaffold)]
    return package(folders, phi_scaffold.__version__, without=tokenizers)


def _command(request: Request) -> list[str]:
    """Return the `run` of a job with its stages."""
    words = ["run", *request.stages]
    if request.until:
        words += ["--until", request.until]
    for stage in request.force:
        words += ["--force", stage]
    return words


def _arguments(project: ProjectFolder, flags: Flags) -> list[str]:
    """Return the arguments of this command that concern a job too, but for stages."""
    words = []
    for setting in flags.settings or ():
        words += ["--set", setting]
    for name in ("skip_bad_rows", "trust_remote_code"):
        if getattr(flags, name):
            words.append(f"--{name.replace('_', '-')}")
    if flags.task_name:
        words += ["--task-name", flags.task_name]
    if project.config.is_relative_to(project.root) and project.config != project.root / CONFIG and not flags.task_name:
        words += ["--config", project.shown(project.config)]
    return words


def _data(flags: Flags) -> list[str]:
    """Return --data of this command line for a job in the folder of the project."""
    files = flags.overrides(remote=True).data
    return [
        word
        for name, file in files.items()
        for word in ("--data", f"{name}={file.absolute()}" if name else str(file.absolute()))
    ]


def _seconds(text: str | None) -> int | None:
    if text is None:
        return None
    match = re.fullmatch(r"(\d+)([smhd])", text.strip().lower())
    if match is None or not int(match[1]):
        raise UsageError(f"`--time-limit {text}` is no time", fix="write, for example, --time-limit 4h")
    return int(match[1]) * SECONDS[match[2]]
