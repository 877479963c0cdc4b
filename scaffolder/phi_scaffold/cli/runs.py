"""The command `phi-scaffold runs`."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from phi_scaffold.cli.group import CommandGroup
from phi_scaffold.cli.options import OUTPUT, Flags, accepts

HISTORY = ("task_name", "project_folder", *OUTPUT)
RunName = Annotated[
    str, typer.Argument(metavar="RUN", help="Id of a run, the beginning of it, `latest`, or `-2` for the one before.")
]
_ACCEPTS_NUMBERS = {"ignore_unknown_options": True}  # `-1` is a run, not an option

runs = typer.Typer(
    cls=CommandGroup, help="List, show, compare and reproduce the runs of a project.", no_args_is_help=True
)


@runs.command("list")
@accepts(*HISTORY)
def list_runs(flags: Flags) -> None:
    """List the runs, newest first: state, stages, base model, method and main score.

    Example: phi-scaffold runs list --json
    """
    project = flags.enter_project()
    from phi_runtime.report.history import read_runs
    from phi_scaffold.show import runs as show

    found = read_runs(project)
    if flags.as_json:
        print(json.dumps({"runs": [show.as_dict(run) for run in found]}))
    else:
        show.listing(found)


@runs.command(context_settings=_ACCEPTS_NUMBERS)
@accepts(*HISTORY)
def show(flags: Flags, run: RunName) -> None:
    """Show stages, settings, data, scores and outputs of a run, and if the outputs are still those of it.

    Example: phi-scaffold runs show latest
    """
    project = flags.enter_project()
    from phi_runtime.report.history import find_run
    from phi_scaffold.show import runs as show_runs

    found = find_run(project, run)
    if flags.as_json:
        print(json.dumps(show_runs.details_as_dict(found)))
    else:
        show_runs.details(found)


@runs.command(context_settings=_ACCEPTS_NUMBERS)
@accepts(*HISTORY)
def diff(flags: Flags, before: RunName, after: RunName) -> None:
    """Compare two runs: settings, versions, data, and scores on the rows that both measured.

    Example: phi-scaffold runs diff -2 latest
    """
    project = flags.enter_project()
    from phi_runtime.report.differences import compare_runs
    from phi_runtime.report.history import find_run
    from phi_scaffold.show import runs as show_runs

    differences = compare_runs(find_run(project, before), find_run(project, after))
    if flags.as_json:
        print(json.dumps(differences.as_dict()))
    else:
        show_runs.differences(differences)


@runs.command(context_settings=_ACCEPTS_NUMBERS)
@accepts("trust_project", "trust_remote_code", *HISTORY)
def reproduce(
    flags: Flags,
    run: RunName,
    dry_run: Annotated[
        bool, typer.Option(help="Show the config files, the command and what differs; write nothing.")
    ] = False,
    allow_differences: Annotated[
        bool, typer.Option("--allow-differences", help="Run even if data, functions or base model differ.")
    ] = False,
) -> None:
    """Run the config of a run again as a task of its own, and compare the bytes of the adapter.

    Data, functions, base model and versions are compared with those of the run first. Outputs are in
    gen-model/reproduce-RUN/; the current ones are unchanged.

    Example: phi-scaffold runs reproduce latest --dry-run
    """
    project = flags.enter_project(runs_hooks=not dry_run)
    from phi_runtime.core.errors import Conflict
    from phi_runtime.pipeline.engine import run as run_workflow
    from phi_runtime.report.history import find_run
    from phi_runtime.report.reproduction import compare_outputs, plan_reproduction
    from phi_scaffold.show import runs as show_runs

    plan = plan_reproduction(find_run(project, run), flags.overrides())
    changed = [mismatch for mismatch in plan.mismatches if mismatch.changes_result]
    if not flags.as_json:
        show_runs.reproduction(plan)
    outputs = []
    if not dry_run:
        if changed and not allow_differences:
            raise Conflict(
                f"{', '.join(f'`{mismatch.subject}`' for mismatch in changed)}: not as in run {plan.run.id}",
                fix="; ".join([*(mismatch.fix for mismatch in changed if mismatch.fix), "or pass --allow-differences"]),
            )
        plan.write()
        with flags.progress() as emit:
            run_workflow(plan.project, emit, overrides=plan.overrides, **plan.request)
        outputs = compare_outputs(plan)
    if flags.as_json:
        print(json.dumps(show_runs.reproduction_as_dict(plan, outputs)))
    elif not dry_run:
        show_runs.reproduced(plan, outputs)
