"""phi-scaffold status"""

from __future__ import annotations

from phi_scaffold.cli.options import (
    ConfigFile,
    DataFiles,
    Debug,
    Json,
    On,
    ProjectFolder,
    Quiet,
    TaskName,
    TrustRemoteCode,
    open_project,
    overrides,
)


def status(
    on: On = None,
    data: DataFiles = None,
    trust_remote_code: TrustRemoteCode = False,
    task_name: TaskName = None,
    project_folder: ProjectFolder = None,
    config: ConfigFile = None,
    as_json: Json = False,
    quiet: Quiet = False,  # noqa: ARG001
    debug: Debug = False,  # noqa: ARG001
) -> None:
    """Each stage: cached, stale (and why), failed or never run, and where its output is.

    Example: phi-scaffold status --json
    """
    from phi_runtime.pipeline.load import load_workflow
    from phi_runtime.pipeline.plan import plan
    from phi_scaffold.environment import use_project_environment
    from phi_scaffold.show import run as show

    project = open_project(project_folder, config, task_name)
    use_project_environment(project)
    workflow = load_workflow(project.config, overrides(on, data, trust_remote_code))
    show.status(plan(workflow, project), project, as_json=as_json)
