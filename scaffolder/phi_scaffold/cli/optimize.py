"""The command `phi-scaffold optimize`."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from phi_scaffold.cli.options import WORKFLOW, Flags, accepts


@accepts(*WORKFLOW)
def optimize(
    flags: Flags,
    target: Annotated[
        str | None,
        typer.Option(
            "--for",
            metavar="TARGET",
            help="laptop-cpu, cuda, directml, webgpu or mobile; default: the target of the config.",
        ),
    ] = None,
    max_size_mb: Annotated[
        float | None, typer.Option(help="Largest size: all files of the model's folder, in MB (1,000,000 bytes).")
    ] = None,
    max_accuracy_drop: Annotated[
        float | None,
        typer.Option(
            help="Largest drop of the task's metric against full precision, as a fraction; the end of its 95 % "
            "interval decides; 1 accepts any model. Default: 0.05."
        ),
    ] = None,
    min_tokens_per_s: Annotated[
        float | None, typer.Option(help="Lowest decoding speed on this machine, in tokens per second.")
    ] = None,
    max_memory_mb: Annotated[
        float | None,
        typer.Option(
            help="Largest memory: the peak of a process that only runs the model with a context of --context tokens, in MB; "
            "default for mobile: 3000."
        ),
    ] = None,
    context: Annotated[
        int, typer.Option(min=16, metavar="TOKENS", help="Context length of the memory measurement.")
    ] = 2048,
    pass_name: Annotated[
        str | None, typer.Option("--pass", help="ModelBuilder pass to optimize; default: the first.")
    ] = None,
    everything: Annotated[
        bool,
        typer.Option("--all", help="Measure all candidates instead of stopping at the first that meets the limits."),
    ] = False,
    apply: Annotated[
        bool, typer.Option("--apply", help="Write the chosen options into the config and install the model.")
    ] = False,
    keep: Annotated[
        bool, typer.Option("--keep", help="Keep the models of all candidates instead of only the chosen one.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Measure every candidate again, cached or not.")] = False,
    dry_run: Annotated[
        bool, typer.Option(help="Show the candidates with their expected sizes; build nothing.")
    ] = False,
) -> None:
    """Find the smallest ONNX model within the limits: build and measure candidates until one meets them.

    Limits can also be set in evaluation.json, under `constraints`. Exit code 1: no candidate meets all of them.

    Example: phi-scaffold optimize --for laptop-cpu --max-size-mb 3000 --apply
    """
    project = flags.enter_project(runs_hooks=True)
    from phi_runtime.pipeline.load import load_config
    from phi_runtime.search.optimize.planning import plan_to_json, prepare
    from phi_runtime.search.optimize.search import optimize as search
    from phi_scaffold.new.catalog import catalog_shape
    from phi_scaffold.show import optimize as show_optimize

    config = load_config(project.config, flags.overrides())
    limits = {
        "max_size_mb": max_size_mb,
        "max_accuracy_drop": max_accuracy_drop,
        "min_tokens_per_s": min_tokens_per_s,
        "max_memory_mb": max_memory_mb,
    }
    planned = prepare(
        project,
        config=config,
        target=target,
        limits=limits,
        stage=pass_name,
        tokens=context,
        apply=apply,
        shape=catalog_shape(config.require_valid()),
    )
    if dry_run:
        facts = plan_to_json(planned)
        print(json.dumps(facts)) if flags.as_json else show_optimize.plan(facts)
        return
    with show_optimize.display(quiet=flags.quiet or flags.as_json) as emit:
        if planned.unavailable and not flags.as_json:
            show_optimize.cannot_run(planned.target.name, planned.unavailable)
        result = search(planned, emit, everything=everything, keep=keep, force=force, apply=apply)
    if flags.as_json:
        print(json.dumps(result.as_dict()))
    else:
        show_optimize.result(result.as_dict(), flags.repeated())
    if result.chosen is None:
        raise typer.Exit(1)
