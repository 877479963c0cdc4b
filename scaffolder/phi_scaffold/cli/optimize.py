"""phi-scaffold optimize"""

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


def optimize(
    target: Annotated[
        str | None,
        typer.Option(
            "--for",
            metavar="TARGET",
            help="laptop-cpu, cuda, directml, webgpu or mobile; default: what the config's target has.",
        ),
    ] = None,
    max_size_mb: Annotated[
        float | None, typer.Option(help="Largest size of the model's folder, in MB (1,000,000 bytes).")
    ] = None,
    max_accuracy_drop: Annotated[
        float | None,
        typer.Option(
            help="How much lower the task's metric may be than in full precision, as a fraction; 1 lets any model pass. "
            "Default: 0.02, for mobile 0.05."
        ),
    ] = None,
    min_tokens_per_s: Annotated[
        float | None, typer.Option(help="Least speed of an answer on this machine, in tokens a second.")
    ] = None,
    max_memory_mb: Annotated[
        float | None,
        typer.Option(help="Largest peak memory with a context of --context tokens, in MB; for mobile 3000 by default."),
    ] = None,
    context: Annotated[int, typer.Option(min=16, metavar="TOKENS", help="Context that memory is measured for.")] = 2048,
    pass_name: Annotated[
        str | None,
        typer.Option("--pass", help="Of several ModelBuilder passes, the one to optimize; default: the first."),
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Go on after the first that holds, and measure all candidates.")
    ] = False,
    apply: Annotated[
        bool,
        typer.Option("--apply", help="Write the chosen options into the config, and put the model into its place."),
    ] = False,
    keep: Annotated[
        bool, typer.Option("--keep", help="Keep the models of all candidates, not that of the chosen one alone.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Measure all anew, also what is known already.")] = False,
    dry_run: Annotated[bool, typer.Option(help="Show the candidates with their expected sizes, do nothing.")] = False,
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
    """Find the smallest ONNX model that keeps to the constraints: build and measure candidates until one does.

    Constraints also stand in evaluation.json, under `constraints`. Exit code 1: no candidate holds them all.

    Example: phi-scaffold optimize --for laptop-cpu --max-size-mb 3000 --apply
    """
    from phi_runtime.pipeline.load import load_config
    from phi_runtime.search.optimize.planning import plan_to_json, prepare
    from phi_runtime.search.optimize.search import optimize as search
    from phi_scaffold.environment import use_project_environment
    from phi_scaffold.show import optimize as show_optimize
    from phi_scaffold.show.dry_run import in_catalogue

    project = open_project(project_folder, config, task_name)
    use_project_environment(project)
    given = overrides(on, data, trust_remote_code, skip_bad_rows=skip_bad_rows, run_user_script=run_user_script)
    limits = {
        "max_size_mb": max_size_mb,
        "max_accuracy_drop": max_accuracy_drop,
        "min_tokens_per_s": min_tokens_per_s,
        "max_memory_mb": max_memory_mb,
    }
    loaded = load_config(project.config, given)
    planned = prepare(
        project,
        config=loaded,
        target=target,
        limits=limits,
        stage=pass_name,
        tokens=context,
        apply=apply,
        shape=in_catalogue(loaded.require_valid()),
    )
    if dry_run:
        told = plan_to_json(planned)
        print(json.dumps(told)) if as_json else show_optimize.plan(told)
        return
    with show_optimize.display(quiet=quiet or as_json) as emit:
        if planned.unavailable and not as_json:
            show_optimize.cannot_run(planned.target.name, planned.unavailable)
        found = search(planned, emit, everything=everything, keep=keep, force=force, apply=apply)
    if as_json:
        print(json.dumps(found.as_dict()))
    else:
        show_optimize.found(found.as_dict(), task_name)
    if found.chosen is None:
        raise typer.Exit(1)
