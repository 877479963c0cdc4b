"""Follow a job on another machine until it ends, and download its outputs."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from phi_runtime.core.errors import Interrupted, Location, WorkFailed
from phi_runtime.core.project import ProjectFolder

if TYPE_CHECKING:
    from phi_runtime.core.events import Emit, Event
    from phi_runtime.remote.engine import RemoteEngine, Status
    from phi_runtime.remote.records import JobRecord
    from phi_scaffold.cli.options import Flags


def wait_and_download(project: ProjectFolder, flags: Flags, engine: RemoteEngine, record: JobRecord) -> None:
    """Follow a job until it ends, and download its outputs into gen-model/ if they are not there already.

    Raises:
        PhiError: The job failed, with the exit code of its error, or was canceled.
        Interrupted: The user stopped waiting; the job continues.
    """
    from phi_runtime.remote.download import download
    from phi_scaffold.show import progress as show_progress
    from phi_scaffold.show import remote as show

    again = f" {flags.repeated(settings=False)}".rstrip()
    outputs: dict[str, None] = {}
    verdict: dict[str, Any] = {}
    with show_progress.display(as_json=flags.as_json, quiet=flags.quiet) as emit:

        def collect(event: Event) -> None:
            if event.event == "stage-finished" and event.data.get("output"):
                outputs[str(event.data["output"])] = None
            if event.event == "run-finished":
                verdict.update(event.data.get("verdict") or {})
            emit(event)

        try:
            _follow(engine, record, collect, notes(flags), again)
            downloaded = None if engine.shares_disk else download(engine, record.name, project, emit)
        except KeyboardInterrupt:
            raise Interrupted(
                f"no longer waiting for job {record.name}, which continues",
                fix=f"phi-scaffold remote logs {record.name} -f{again}; to stop it: phi-scaffold remote cancel {record.name}{again}",
            ) from None
    repeated = flags.repeated()
    if downloaded is None:
        show.outputs_in_place(record.name, list(outputs), verdict, repeated, as_json=flags.as_json, quiet=flags.quiet)
    else:
        show.downloaded(project, record.name, downloaded, repeated, as_json=flags.as_json, quiet=flags.quiet)


def use_client(project: ProjectFolder, flags: Flags) -> None:
    """Continue in the project's environment if Azure's client is not in this one. Does not return then."""
    from importlib.util import find_spec

    from phi_scaffold.environment import use_project_environment

    if find_spec("azure") is None or find_spec("azure.ai") is None:
        use_project_environment(project, trusted=flags.record_trust(project), required=False)


def _follow(engine: RemoteEngine, record: JobRecord, emit: Emit, say: Callable[[str], None], again: str) -> Status:
    from phi_runtime.remote.follow import follow

    status = follow(engine, record.name, emit, say)
    if status.state != "done":
        what = f"job {record.name} {'was canceled' if status.state == 'canceled' else 'failed'}"
        log = f"see its log: phi-scaffold remote logs {record.name}{again}"
        where = Location(status.where) if status.where else None
        resumes = engine.shares_disk and status.exit_code == Interrupted.exit_code
        fix = "; ".join(filter(None, ["submit it again, and it resumes" if resumes else status.fix, log]))
        error = WorkFailed(f"{what}: {status.why}" if status.why else what, where=where, fix=fix)
        error.exit_code = status.exit_code
        raise error
    return status


def notes(flags: Flags) -> Callable[[str], None]:
    """Return a listener that prints notes and lines of logs on stderr."""
    if flags.quiet:
        return lambda _: None
    return lambda text: print(text, file=sys.stderr, flush=True)
