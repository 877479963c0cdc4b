"""`run` on another machine: plan the job, show what is uploaded, submit it once, follow it, and download its outputs."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phi_runtime.core.errors import Interrupted, UsageError, WorkFailed
from phi_runtime.core.project import CONFIG, ProjectFolder

if TYPE_CHECKING:
    from phi_runtime.config.schema import Workflow
    from phi_runtime.core.events import Emit
    from phi_runtime.remote.engine import Engine, Status
    from phi_runtime.remote.records import JobRecord
    from phi_scaffold.cli.options import Flags

SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


@dataclass(frozen=True)
class Request:
    """Stages of `run` for another machine, and the flags that concern the job.

    Attributes:
        on: Name of a system of the config, or `azureml`.
        time_limit: Text such as `4h`.
    """

    on: str
    stages: Sequence[str] = ()
    until: str | None = None
    force: Sequence[str] = ()
    nproc: int = 1
    dry_run: bool = False
    detach: bool = False
    upload: bool = False
    time_limit: str | None = None


def run_on_azureml(project: ProjectFolder, flags: Flags, request: Request) -> None:
    """Submit the stages as a job of Azure ML, and wait for its outputs."""
    from phi_runtime.pipeline.engine import select_stages
    from phi_runtime.pipeline.load import load_workflow
    from phi_runtime.remote.azureml.build import azureml_job, engine_of, settings_of
    from phi_scaffold.new.template_files import setup_folder
    from phi_scaffold.show import remote as show

    if flags.data:
        raise UsageError("--data reads a file of this machine", fix="name the file in `data_files` of the config")
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
        arguments=_arguments(project, flags),
        force=request.force,
        package=own_package(workflow.input_model.name),
        template_setup=setup_folder(),
        processes=request.nproc,
        upload=request.upload,
        timeout_s=_seconds(request.time_limit),
    )
    say = _say(flags)
    for note in planned.notes:
        say(f"warning: {note}")
    engine = engine_of(settings_of(planned.workspace), say)
    if request.dry_run:
        show.dry_run(planned.job, engine.render(planned.job), as_json=flags.as_json)
        return
    show.what_is_sent(planned.job, planned.workspace.name, say)
    _submit_and_wait(project, flags, engine, planned.job, settings_of(planned.workspace), request)


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


def own_package(base_model: str) -> Any:
    """Return phi-scaffold itself for a job; the tokenizers of embedded models only if `base_model` is one."""
    import phi_runtime
    import phi_scaffold
    from phi_runtime.models.embedded import EMBEDDED
    from phi_runtime.remote.package import package

    folders = [Path(str(module.__file__)).parent for module in (phi_runtime, phi_scaffold)]
    used = base_model.replace("\\", "/").rpartition("model-cache/")[2]
    unused = [model.tokenizer for name, model in EMBEDDED.items() if name != used]
    return package(folders, phi_scaffold.__version__, without=unused)


def _submit_and_wait(
    project: ProjectFolder, flags: Flags, engine: Engine, job: Any, settings: dict[str, Any], request: Request
) -> None:
    from phi_runtime.remote.records import write_record
    from phi_runtime.remote.submit import find_attempt, submit
    from phi_scaffold.show import remote as show

    say = _say(flags)
    attempt = find_attempt(engine, job, again=bool(request.force))
    if attempt.status is None:
        status = submit(engine, attempt.job)
        say(f"submitted {status.name}{f': {status.page}' if status.page else ''}")
    else:
        status = attempt.status
        say(f"{status.name} is {'done' if status.state == 'done' else 'there'} already, and was not submitted again")
    record = write_record(project, attempt.job, engine.name, settings, engine.render(attempt.job))
    if request.detach:
        show.detached(status, flags.repeated(), as_json=flags.as_json)
        return
    wait_and_download(project, flags, engine, record)


def wait_and_download(project: ProjectFolder, flags: Flags, engine: Engine, record: JobRecord) -> None:
    """Follow a job until it ends, and download its outputs into gen-model/.

    Raises:
        WorkFailed: The job failed or was canceled.
        Interrupted: The user stopped waiting; the job goes on.
    """
    from phi_scaffold.show import progress as show_progress
    from phi_scaffold.show import remote as show

    again = f" {flags.repeated()}" if flags.repeated() else ""
    with show_progress.display(as_json=flags.as_json, quiet=flags.quiet) as emit:
        try:
            _follow(engine, record, emit, _say(flags), again)
            downloaded = download_outputs(engine, record, project, emit)
        except KeyboardInterrupt:
            raise Interrupted(
                f"no longer waiting for {record.name}, which continues",
                fix=f"phi-scaffold remote logs {record.name} -f{again}; to stop it: phi-scaffold remote cancel {record.name}{again}",
            ) from None
    show.downloaded(project, record.name, downloaded, flags.repeated(), as_json=flags.as_json, quiet=flags.quiet)


def download_outputs(
    engine: Engine, record: JobRecord, project: ProjectFolder, emit: Emit, only: Sequence[str] = ()
) -> Any:
    """Download the outputs of a job."""
    from phi_runtime.remote.download import download

    return download(engine, record.name, project, emit, only)


def _follow(engine: Engine, record: JobRecord, emit: Emit, say: Callable[[str], None], again: str) -> Status:
    from phi_runtime.remote.follow import follow

    status = follow(engine, record.name, emit, say)
    if status.state != "done":
        what = f"the job {record.name} {'was canceled' if status.state == 'canceled' else 'failed'}"
        raise WorkFailed(
            f"{what}: {status.why}" if status.why else what,
            fix=f"see its log: phi-scaffold remote logs {record.name}{again}",
        )
    return status


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
    return [*words, "--json"]


def _seconds(text: str | None) -> int | None:
    if text is None:
        return None
    match = re.fullmatch(r"(\d+)([smhd])", text.strip().lower())
    if match is None or not int(match[1]):
        raise UsageError(f"`--time-limit {text}` is no time", fix="write, for example, --time-limit 4h")
    return int(match[1]) * SECONDS[match[2]]


def _say(flags: Flags) -> Callable[[str], None]:
    """Return a listener that prints notes and lines of logs on stderr."""
    if flags.quiet:
        return lambda _: None
    return lambda text: print(text, file=sys.stderr, flush=True)
