"""The command `phi-scaffold sweep`."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from phi_scaffold.cli.options import WORKFLOW, Flags, accepts


@accepts(*WORKFLOW)
def sweep(
    flags: Flags,
    trials: Annotated[
        int | None,
        typer.Option(min=1, help="Total number of trials, finished ones included; default: from sweep.yaml."),
    ] = None,
    jobs: Annotated[
        int,
        typer.Option(min=0, help="Parallel trials, each with its own GPU or share of the cores; 0: in this process."),
    ] = 1,
    metric: Annotated[
        str | None,
        typer.Option(help="Score of a trial: validation_loss, perplexity, accuracy, …; default: from sweep.yaml."),
    ] = None,
    dry_run: Annotated[bool, typer.Option(help="Check the search and show its plan; run nothing.")] = False,
) -> None:
    """Search for better settings, as fine-tuning/sweep.yaml describes. A stopped search resumes where it was.

    --config accepts another sweep.yaml too, for the config of the project.

    Example: phi-scaffold sweep --trials 20 --jobs 2
    """
    overrides = flags.overrides()
    if flags.config and _is_search(flags.config):
        overrides = replace(overrides, search=flags.config.absolute())
        flags = replace(flags, config=None)
    project = flags.enter_project(runs_hooks=True)
    from phi_runtime.search.sweep.outcome import seed_spread
    from phi_runtime.search.sweep.planning import plan_to_json, prepare
    from phi_runtime.search.sweep.search import search
    from phi_scaffold.show import sweep as show_sweep

    planned = prepare(project, trials=trials, metric=metric, overrides=overrides)
    if dry_run:
        facts = plan_to_json(planned)
        print(json.dumps(facts)) if flags.as_json else show_sweep.plan(facts)
        return
    if planned.place.why:
        show_sweep.new_study(planned.place.name, planned.place.why)
    with show_sweep.display(quiet=flags.quiet or flags.as_json) as emit:
        result = search(planned, emit, jobs=jobs, debug=flags.debug)
    if flags.as_json:
        print(json.dumps(result.as_dict(project)))
    else:
        config = Path(os.path.relpath(result.config)) if result.config.is_relative_to(Path.cwd()) else result.config
        spread = seed_spread(planned.workflow, planned.settings)
        show_sweep.result(result, project, spread, replace(flags, config=config, settings=None).repeated())


def _is_search(file: Path) -> bool:
    from phi_runtime.config.parse import kind_of
    from phi_runtime.config.reading.source import read_source
    from phi_runtime.config.schema import Sweep

    return file.is_file() and kind_of(read_source(file)) is Sweep
