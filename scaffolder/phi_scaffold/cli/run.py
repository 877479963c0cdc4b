"""The command `phi-scaffold run`."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from phi_runtime.core.errors import UsageError
from phi_runtime.core.project import setup_command
from phi_scaffold.cli import completion
from phi_scaffold.cli.options import WORKFLOW, Flags, accepts

if TYPE_CHECKING:
    from phi_runtime.core.project import ProjectFolder
    from phi_runtime.pipeline.engine import Outcome
    from phi_runtime.training.distributed.nodes import Nodes


@accepts(*WORKFLOW)
def run(
    flags: Flags,
    stages: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="STAGE",
            help="Stages to bring up to date, such as finetune or export; default: all.",
            autocompletion=completion.stages,
        ),
    ] = None,
    until: Annotated[
        str | None, typer.Option(metavar="STAGE", help="Stop after this stage.", autocompletion=completion.stages)
    ] = None,
    force: Annotated[
        list[str] | None,
        typer.Option(
            metavar="STAGE", help="Run this stage even if it is cached; repeatable.", autocompletion=completion.stages
        ),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option(help="Show the plan with memory and disk estimates, and try one training step; write nothing."),
    ] = False,
    no_step: Annotated[bool, typer.Option("--no-step", help="With --dry-run: skip the training step.")] = False,
    nproc: Annotated[
        int,
        typer.Option(min=1, help="Train with this many processes, one per GPU or share of the cores; same result."),
    ] = 1,
    setup: Annotated[
        bool, typer.Option("--setup", help="Check that the libraries are installed, run nothing (a flag of Olive).")
    ] = False,
    emit_accelerate_config: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write a config for `accelerate launch`, print the command and exit."),
    ] = None,
    detach: Annotated[
        bool, typer.Option("--detach", help="With --on azureml or slurm: submit the job, and do not wait for it.")
    ] = False,
    upload: Annotated[
        bool,
        typer.Option("--upload", help="With --on azureml: store local data and a local base model as data assets."),
    ] = False,
    time_limit: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="With --on azureml or slurm: end the job after this time, such as 4h."),
    ] = None,
    sbatch: Annotated[
        list[str] | None,
        typer.Option(
            metavar="OPTION=VALUE", help="With --on slurm: an option of sbatch, such as partition=gpu; repeatable."
        ),
    ] = None,
    emit: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CLUSTER",
            help="Write the file with which sky, hf (Hugging Face Jobs) or k8s (Kubeflow) runs this, and exit; repeatable.",
            autocompletion=completion.clusters,
        ),
    ] = None,
) -> None:
    """Fetch, fine-tune, merge, export and evaluate; skip what is cached.

    Example: phi-scaffold run --until merge
    """
    on = _other_machine(flags) if not emit or flags.on else ""
    here = {"--setup": setup, "--no-step": no_step, "--emit-accelerate-config": emit_accelerate_config is not None}
    there = {"--detach": detach, "--upload": upload, "--time-limit": time_limit is not None, "--sbatch": bool(sbatch)}
    _check_flags(flags.on, on, {"--emit": bool(emit), "--dry-run": dry_run, **here, **there})
    if on or emit:
        from phi_runtime.data.hooks import require_trusted_hooks
        from phi_scaffold.remote import submit

        request = submit.Request(
            on=on,
            stages=stages or [],
            until=until,
            force=force or [],
            nproc=nproc,
            dry_run=dry_run,
            detach=detach,
            upload=upload,
            time_limit=time_limit,
            sbatch=sbatch or [],
        )
        if on == "slurm":
            submit.run_on_slurm(flags.enter_project(runs_hooks=True), flags, request)
            return
        project = flags.find_project()
        require_trusted_hooks(project.config, trusted=flags.record_trust(project))
        if emit:
            submit.emit(project, flags, request, emit)
        else:
            submit.run_on_azureml(project, flags, request)
        return
    project = flags.enter_project(runs_hooks=True)
    if setup:
        print(f"the libraries are installed, by `{setup_command()}`; nothing was run", file=sys.stderr)
    elif dry_run:
        _dry_run(project, flags, stages or [], until, force or [], step=not no_step)
    elif emit_accelerate_config:
        _emit_accelerate_config(project, flags, stages or [], nproc, emit_accelerate_config)
    else:
        _run_on_nodes(project, flags, stages or [], until, force or [], nproc)


_ENGINES = {
    "--detach": ("azureml", "slurm"),
    "--time-limit": ("azureml", "slurm"),
    "--upload": ("azureml",),
    "--sbatch": ("slurm",),
}
"""Flags of jobs, with the values of --on that have them."""


def _check_flags(on: str | None, machine: str, flags: Mapping[str, bool]) -> None:
    """Raise UsageError if flags contradict each other.

    Args:
        on: Value of --on.
        machine: The other machine to run on; "" for this one.
        flags: Flags by name; True for those of this command line.
    """
    present = [name for name, is_given in flags.items() if is_given]
    if "--emit" in present:
        if others := [*(["--on"] if on else []), *(name for name in present if name != "--emit")]:
            raise UsageError(f"--emit writes files only, and cannot be used with {others[0]}", fix=f"omit {others[0]}")
        return
    engine = "slurm" if machine == "slurm" else "azureml" if machine else ""
    for name in present:
        engines = _ENGINES.get(name)
        if engines is None and engine and name != "--dry-run":
            raise UsageError(f"{name} is for this machine, and the job runs on another one", fix=f"omit {name}")
        if engines and not engine:
            choices = " or ".join(f"--on {choice}" for choice in engines)
            raise UsageError(f"{name} is for jobs on other machines", fix=f"add {choices}, or omit {name}")
        if engines and engine not in engines:
            why = ": the nodes read the files of the project where they are" if name == "--upload" else ""
            raise UsageError(f"{name} is for --on {engines[0]}{why}", fix=f"omit {name}")


def _run_on_nodes(
    project: ProjectFolder, flags: Flags, stages: Sequence[str], until: str | None, force: Sequence[str], nproc: int
) -> None:
    """Run the stages on the machines that torchrun's variables describe, of which the others only take part in trainings."""
    from phi_runtime.training.distributed.nodes import Nodes, take_rendezvous

    rendezvous = take_rendezvous()
    if rendezvous is None:
        run_stages(project, flags, only=stages, until=until, force=force, nproc=nproc)
        return
    with Nodes(rendezvous) as nodes:
        if nodes.rendezvous.rank:
            from phi_runtime.training.distributed.launch import join_trainings

            join_trainings(nodes, project)
        else:
            run_stages(project, flags, only=stages, until=until, force=force, nproc=nproc, nodes=nodes)


def _other_machine(flags: Flags) -> str:
    """Return where to run: --on, or `azureml` for a config whose passes run there; "" for this machine."""
    if flags.on is not None:
        return "" if flags.on == "local" else flags.on
    config = flags.find_project().config
    if b"azureml" not in config.read_bytes().lower():  # most configs are of this machine, and are loaded once
        return ""
    from phi_runtime.pipeline.load import load_workflow

    return "azureml" if load_workflow(config, flags.overrides()).remote else ""


def run_stages(
    project: ProjectFolder,
    flags: Flags,
    *,
    only: Sequence[str],
    until: str | None = None,
    force: Sequence[str] = (),
    nproc: int = 1,
    nodes: Nodes | None = None,
) -> None:
    """Run stages of the workflow with live progress, and print their outcome."""
    from phi_runtime.pipeline.engine import run as run_workflow
    from phi_runtime.pipeline.load import load_config
    from phi_runtime.report.finish import finish_run, judge_run
    from phi_runtime.report.verdict import Verdict, as_json
    from phi_scaffold.show import progress as show_progress
    from phi_scaffold.show import report as show_report
    from phi_scaffold.show import run as show
    from phi_scaffold.show import verdict as show_verdict

    config = load_config(project.config, flags.overrides())
    judged: dict[str, Verdict] = {}
    report: Path | None = None

    with show_progress.display(as_json=flags.as_json, quiet=flags.quiet) as emit:

        def conclude(outcome: Outcome) -> dict[str, Any]:
            nonlocal report
            workflow = config.require_valid()
            judged.update(judge_run(project, workflow, outcome, emit))
            report = finish_run(project, workflow, outcome, emit)
            return as_json(judged)

        outcome = run_workflow(
            project,
            emit,
            config=config,
            only=only,
            until=until,
            force=force,
            nproc=nproc,
            nodes=nodes,
            conclude=conclude,
        )
    if not flags.as_json:
        show.outcome(outcome, project, judged, flags.repeated())
        if outcome.done and not judged:
            show_verdict.next_commands(["phi-scaffold run" if only or until else "phi-scaffold chat"], flags.repeated())
        show_report.report_of_run(report, project)


def _dry_run(
    project: ProjectFolder, flags: Flags, stages: Sequence[str], until: str | None, force: Sequence[str], *, step: bool
) -> None:
    from phi_runtime.pipeline.engine import select_stages
    from phi_runtime.pipeline.load import load_workflow
    from phi_scaffold.show.dry_run import dry_run

    overrides = flags.overrides()
    workflow = load_workflow(project.config, overrides)
    dry_run(
        project,
        workflow,
        overrides,
        names=select_stages(workflow, stages, until, force),
        force=set(force),
        step=step,
        as_json=flags.as_json,
        quiet=flags.quiet,
    )


def _emit_accelerate_config(
    project: ProjectFolder, flags: Flags, stages: Sequence[str], nproc: int, file: Path
) -> None:
    from phi_runtime.pipeline.launch_commands import write_launch_command
    from phi_runtime.pipeline.load import load_workflow
    from phi_scaffold.show import run as show

    overrides = flags.overrides()
    workflow = load_workflow(project.config, overrides)
    written = write_launch_command(project, workflow, overrides, nproc, file, next(iter(stages), None))
    show.launch_command(written, as_json=flags.as_json)
