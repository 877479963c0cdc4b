"""The commands `phi-scaffold remote`."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from phi_scaffold.cli.group import CommandGroup
from phi_scaffold.cli.options import OUTPUT, Flags, accepts

if TYPE_CHECKING:
    from phi_runtime.core.project import ProjectFolder
    from phi_runtime.remote.engine import RemoteEngine
    from phi_runtime.remote.records import JobRecord

PLACE = ("task_name", "project_folder", "config", *OUTPUT)
JobName = Annotated[str | None, typer.Argument(metavar="[JOB]", help="Name of a job; default: the last one.")]

remote = typer.Typer(
    cls=CommandGroup, help="Status, logs, cancel and download of jobs that `run --on` submitted.", no_args_is_help=True
)


@remote.command()
@accepts(*PLACE)
def status(flags: Flags, job: JobName = None) -> None:
    """Show the state of a job, or of all jobs of the project.

    Example: phi-scaffold remote status
    """
    from phi_runtime.remote.records import find_record, read_records
    from phi_scaffold.show import remote as show

    project = flags.find_project()
    records = [find_record(project, job)] if job else read_records(project) or [find_record(project)]
    found = [(record, _engine(flags, project, record).status(record.name)) for record in records]
    show.statuses(found, as_json=flags.as_json)


@remote.command()
@accepts(*PLACE)
def logs(
    flags: Flags,
    job: JobName = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Wait for the end of the job, and download its outputs.")
    ] = False,
) -> None:
    """Print the log of a job.

    Example: phi-scaffold remote logs -f
    """
    from phi_runtime.remote.follow import LogReader
    from phi_scaffold.remote.wait import notes, wait_and_download

    project, record, engine = _found(flags, job)
    if follow:
        wait_and_download(project, flags, engine, record)
        return
    say = notes(flags) if flags.as_json or flags.quiet else print  # stdout has events only
    reader = LogReader(engine, record.name, lambda event: print(json.dumps(event.as_dict())), say)
    reader.read()
    reader.close()


@remote.command()
@accepts(*PLACE)
def cancel(flags: Flags, job: JobName = None) -> None:
    """Cancel a job.

    Example: phi-scaffold remote cancel
    """
    from phi_scaffold.show import remote as show

    _, record, engine = _found(flags, job)
    engine.cancel(record.name)
    show.statuses([(record, engine.status(record.name))], as_json=flags.as_json)


@remote.command()
@accepts(*PLACE)
def download(
    flags: Flags,
    job: JobName = None,
    only: Annotated[
        list[str] | None, typer.Option(metavar="FOLDER", help="Only this folder of gen-model/; repeatable.")
    ] = None,
) -> None:
    """Download the outputs of a job into gen-model/; an interrupted download continues.

    Example: phi-scaffold remote download --only adapter
    """
    from phi_runtime.remote.download import download as download_outputs
    from phi_scaffold.show import progress as show_progress
    from phi_scaffold.show import remote as show

    project, record, engine = _found(flags, job)
    if engine.shares_disk:
        show.outputs_in_place(record.name, [], {}, flags.repeated(), as_json=flags.as_json, quiet=flags.quiet)
        return
    with show_progress.display(as_json=flags.as_json, quiet=flags.quiet) as emit:
        result = download_outputs(engine, record.name, project, emit, only or [])
    show.downloaded(project, record.name, result, flags.repeated(), as_json=flags.as_json, quiet=flags.quiet)


def _found(flags: Flags, name: str | None) -> tuple[ProjectFolder, JobRecord, RemoteEngine]:
    from phi_runtime.remote.records import find_record

    project = flags.find_project()
    record = find_record(project, name)
    return project, record, _engine(flags, project, record)


def _engine(flags: Flags, project: ProjectFolder, record: JobRecord) -> RemoteEngine:
    from phi_runtime.core.errors import UsageError

    if record.engine == "slurm":
        from phi_runtime.remote.slurm import Slurm

        return Slurm(project)
    if record.engine == "azureml":
        from phi_runtime.remote.azureml.build import engine_of
        from phi_scaffold.remote.wait import use_client

        use_client(project, flags)
        return engine_of(record.settings, lambda text: print(text, file=sys.stderr))
    raise UsageError(f"the engine `{record.engine}` of {record.name} is unknown", fix="update phi-scaffold")
