"""phi-scaffold sweep"""

from __future__ import annotations

import json
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


def sweep(
    trials: Annotated[
        int | None, typer.Option(min=1, help="Trials in all, those done before included; default: as the search says.")
    ] = None,
    jobs: Annotated[
        int,
        typer.Option(
            min=0,
            help="Trials at once, each in a process with its own GPU or share of the cores; 0: in this process.",
        ),
    ] = 1,
    metric: Annotated[
        str | None, typer.Option(help="What tells a good trial: validation_loss, perplexity, accuracy, …")
    ] = None,
    dry_run: Annotated[bool, typer.Option(help="Check the search and show what would be tried, do nothing.")] = False,
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
    debug: Debug = False,
) -> None:
    """Search for better settings as fine-tuning/sweep.yaml says: trials that are done are kept, a stopped search goes on.

    Example: phi-scaffold sweep --trials 20 --jobs 2
    """
    from phi_runtime.search.sweep.planning import plan_to_json, prepare
    from phi_runtime.search.sweep.search import search
    from phi_scaffold.environment import use_project_environment
    from phi_scaffold.show import sweep as show_sweep

    project = open_project(project_folder, config, task_name)
    use_project_environment(project)
    given = overrides(on, data, trust_remote_code, skip_bad_rows=skip_bad_rows, run_user_script=run_user_script)
    planned = prepare(project, trials=trials, metric=metric, overrides=given)
    if dry_run:
        told = plan_to_json(planned)
        print(json.dumps(told)) if as_json else show_sweep.plan(told)
        return
    if planned.place.why:
        show_sweep.new_study(planned.place.name, planned.place.why)
    with show_sweep.display(quiet=quiet or as_json) as emit:
        found = search(planned, emit, jobs=jobs, debug=debug)
    if as_json:
        print(json.dumps(found.as_dict(project)))
    else:
        show_sweep.found(found, project, task_name)
