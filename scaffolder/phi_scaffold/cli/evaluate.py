"""phi-scaffold evaluate"""

from __future__ import annotations

import json

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


def evaluate(
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
    """Measure base, adapter, merged and ONNX model on the held-out rows, after running what is not done yet.

    Example: phi-scaffold evaluate --json
    """
    from phi_runtime.engine import run as run_workflow
    from phi_scaffold import show
    from phi_scaffold.environment import use_project_environment

    project = open_project(project_folder, config)
    use_project_environment(project)
    given = overrides(on, data, trust_remote_code, skip_bad_rows=skip_bad_rows, run_user_script=run_user_script)
    with show.display(as_json=False, quiet=quiet or as_json) as emit:
        outcome = run_workflow(project, emit, only=["evaluate"], overrides=given)
    if as_json:
        print(json.dumps(outcome.evaluation))
    elif outcome.evaluation:
        show.ladder(outcome.evaluation)
