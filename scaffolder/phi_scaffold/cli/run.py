"""phi-scaffold run"""

from __future__ import annotations

from typing import Annotated

import typer

from phi_scaffold.cli.options import (
    ConfigFile,
    DataFiles,
    Debug,
    Json,
    On,
    ProjectFolder,
    Quiet,
    RunUserScript,
    SkipBadRows,
    TrustRemoteCode,
    open_project,
    overrides,
)


def run(
    stages: Annotated[
        list[str] | None, typer.Argument(metavar="[STAGE]...", help="Stages to bring up to date; default: all.")
    ] = None,
    until: Annotated[str | None, typer.Option(help="Stop after this stage.")] = None,
    force: Annotated[
        list[str] | None, typer.Option(help="Run this stage again although it is cached; may be given again.")
    ] = None,
    dry_run: Annotated[bool, typer.Option(help="Show what would run and why, do nothing.")] = False,
    on: On = None,
    data: DataFiles = None,
    skip_bad_rows: SkipBadRows = False,
    run_user_script: RunUserScript = False,
    trust_remote_code: TrustRemoteCode = False,
    project_folder: ProjectFolder = None,
    config: ConfigFile = None,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,  # noqa: ARG001
) -> None:
    """Fetch, fine-tune, merge, export, evaluate: what is not done yet, and nothing twice.

    Example: phi-scaffold run --until merge
    """
    from phi_runtime.engine import chosen_stages
    from phi_runtime.engine import run as run_workflow
    from phi_scaffold import show
    from phi_scaffold.environment import use_project_environment

    project = open_project(project_folder, config)
    use_project_environment(project)
    given = overrides(on, data, trust_remote_code, skip_bad_rows=skip_bad_rows, run_user_script=run_user_script)
    if dry_run:
        from phi_runtime.plan import plan
        from phi_runtime.workflow.load import load_workflow

        workflow = load_workflow(project.config, given)
        names = chosen_stages(workflow, stages or [], until)
        for name in force or []:
            chosen_stages(workflow, [name], None)
        show.plan([s for s in plan(workflow, project) if s.name in names], project, set(force or []), as_json=as_json)
        return
    with show.display(as_json=as_json, quiet=quiet) as emit:
        outcome = run_workflow(project, emit, only=stages or [], until=until, force=force or [], overrides=given)
    if not as_json:
        show.outcome(outcome, project)
