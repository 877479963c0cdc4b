"""The command `phi-scaffold evaluate`."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from phi_scaffold.cli.options import WORKFLOW, Flags, accepts


@accepts(*WORKFLOW)
def evaluate(
    flags: Flags,
    model: Annotated[
        str | None,
        typer.Option(help="Evaluate only the adapter that this model or pass belongs to; default: all adapters."),
    ] = None,
    seeds: Annotated[
        int,
        typer.Option(
            min=1, metavar="N", help="Train with N - 1 more seeds on the same rows, and show the spread of the results."
        ),
    ] = 1,
    benchmark: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TASK",
            help="Also measure this task of lm-evaluation-harness, or this task file (.yaml), with each model. Repeatable.",
        ),
    ] = None,
) -> None:
    """Compare base, adapter, merged and ONNX model on the test rows; run missing stages first.

    One training shows nothing of what chance does in it: with --seeds 3, two more are compared on the same rows.

    Example: phi-scaffold evaluate --json
    """
    project = flags.enter_project(runs_hooks=True)
    from phi_runtime.pipeline.engine import run as run_workflow
    from phi_runtime.pipeline.load import load_config
    from phi_runtime.pipeline.model_names import stages_that_measure
    from phi_runtime.report.finish import finish_run, judge_run, write_page
    from phi_runtime.report.verdict import with_verdicts
    from phi_scaffold.show import report as show_report
    from phi_scaffold.show import run as show
    from phi_scaffold.show import seeds as show_seeds
    from phi_scaffold.show import verdict as show_verdict

    config = load_config(project.config, flags.overrides())
    workflow = config.require_valid()
    only = stages_that_measure(model, workflow, project)
    if benchmark:
        from phi_runtime.evaluation.benchmarks import load_benchmarks

        tasks = load_benchmarks(benchmark, workflow.evaluation.max_rows)  # an error in them shows before a training
    with flags.progress() as emit:
        outcome = run_workflow(project, emit, only=only, config=config)
        report = finish_run(project, workflow, outcome, emit)
    if seeds > 1:
        from phi_runtime.search.seeds import plan_seeds, run_seeds

        planned = plan_seeds(config, project, only, seeds)
        show_seeds.before(planned)
        with flags.progress() as emit:
            run_seeds(planned, emit)
            outcome = run_workflow(project, emit, only=only, config=config)
            report = finish_run(project, workflow, outcome, emit)
    benchmarks = []
    with flags.progress() as emit:
        if benchmark:
            from phi_runtime.pipeline.benchmarks import run_benchmarks

            benchmarks = run_benchmarks(workflow, project, only, tasks, emit)
            report = write_page(project, workflow, emit)
        judged = judge_run(project, workflow, outcome, emit)
    if flags.as_json:
        result = with_verdicts(outcome.evaluation, judged)
        print(json.dumps({**(result or {}), "benchmarks": benchmarks} if benchmark else result))
    elif outcome.evaluation:
        show.comparisons(outcome.evaluation)
        show.benchmarks(benchmarks)
        show_verdict.verdicts(judged, flags.repeated())
        show_report.report_of_run(report, project)
