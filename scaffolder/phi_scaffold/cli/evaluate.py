"""phi-scaffold evaluate"""

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


def evaluate(
    model: Annotated[
        str | None,
        typer.Option(help="Of several adapters, measure the one that this model or pass belongs to; default: all."),
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
    """Measure base, adapter, merged and ONNX model on the held-out rows, after running what is not done yet.

    Example: phi-scaffold evaluate --json
    """
    from phi_runtime.pipeline.engine import run as run_workflow
    from phi_runtime.pipeline.load import load_config
    from phi_runtime.pipeline.model_names import stages_that_measure
    from phi_scaffold.environment import use_project_environment
    from phi_scaffold.show import diagnosis as show_diagnosis
    from phi_scaffold.show import progress as show_progress
    from phi_scaffold.show import run as show

    project = open_project(project_folder, config, task_name)
    use_project_environment(project)
    given = overrides(on, data, trust_remote_code, skip_bad_rows=skip_bad_rows, run_user_script=run_user_script)
    loaded = load_config(project.config, given)
    only = stages_that_measure(model, loaded.require_valid(), project)
    with show_progress.display(as_json=False, quiet=quiet or as_json) as emit:
        outcome = run_workflow(project, emit, only=only, config=loaded)
    if as_json:
        print(json.dumps(outcome.evaluation))
    elif outcome.evaluation:
        show.comparisons(outcome.evaluation)
        show_diagnosis.of_results(outcome.evaluation)
