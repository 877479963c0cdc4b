"""phi-scaffold run"""

from __future__ import annotations

from pathlib import Path
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
    TaskName,
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
    dry_run: Annotated[
        bool,
        typer.Option(help="Show what would run, why, and what it takes, and try one step of training; make nothing."),
    ] = False,
    no_step: Annotated[bool, typer.Option("--no-step", help="With --dry-run: try no step, which takes time.")] = False,
    nproc: Annotated[
        int,
        typer.Option(min=1, help="Train on so many processes: GPUs, or shares of the cores. The result is the same."),
    ] = 1,
    emit_accelerate_config: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Write the config by which accelerate starts these processes, say how, and end."
        ),
    ] = None,
    on: On = None,
    data: DataFiles = None,
    skip_bad_rows: SkipBadRows = False,
    run_user_script: RunUserScript = False,
    trust_remote_code: TrustRemoteCode = False,
    task_name: TaskName = None,
    project_folder: ProjectFolder = None,
    config: ConfigFile = None,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,  # noqa: ARG001
) -> None:
    """Fetch, fine-tune, merge, export, evaluate: what is not done yet, and nothing twice.

    Example: phi-scaffold run --until merge
    """
    from phi_runtime.pipeline.engine import run as run_workflow
    from phi_runtime.pipeline.engine import select_stages
    from phi_scaffold.environment import use_project_environment
    from phi_scaffold.show import progress as show_progress
    from phi_scaffold.show import run as show

    project = open_project(project_folder, config, task_name)
    use_project_environment(project)
    given = overrides(on, data, trust_remote_code, skip_bad_rows=skip_bad_rows, run_user_script=run_user_script)
    if dry_run:
        from phi_runtime.pipeline.load import load_workflow
        from phi_scaffold.show.dry_run import dry_run as show_dry_run

        workflow = load_workflow(project.config, given)
        names = select_stages(workflow, stages or [], until, force or [])
        show_dry_run(
            project,
            workflow,
            given,
            names=names,
            force=set(force or []),
            step=not no_step,
            as_json=as_json,
            quiet=quiet,
        )
        return
    if emit_accelerate_config:
        from phi_runtime.pipeline.launch_commands import write_by_hand
        from phi_runtime.pipeline.load import load_workflow
        from phi_scaffold.show.processes import by_hand

        workflow, stage = load_workflow(project.config, given), next(iter(stages or []), None)
        by_hand(write_by_hand(project, workflow, given, nproc, emit_accelerate_config, stage), as_json=as_json)
        return
    with show_progress.display(as_json=as_json, quiet=quiet) as emit:
        outcome = run_workflow(
            project, emit, only=stages or [], until=until, force=force or [], overrides=given, nproc=nproc
        )
    if not as_json:
        show.outcome(outcome, project)
