"""phi-scaffold status"""

from __future__ import annotations

from phi_scaffold.cli.options import ConfigFile, Debug, Json, ProjectFolder, Quiet, open_project


def status(
    project_folder: ProjectFolder = None,
    config: ConfigFile = None,
    as_json: Json = False,
    quiet: Quiet = False,  # noqa: ARG001
    debug: Debug = False,  # noqa: ARG001
) -> None:
    """Each stage: cached, stale (and why), failed or never run, and where its output is.

    Example: phi-scaffold status --json
    """
    from phi_runtime.plan import plan
    from phi_runtime.workflow.load import load_workflow
    from phi_scaffold import show
    from phi_scaffold.environment import use_project_environment

    project = open_project(project_folder, config)
    use_project_environment(project)
    show.status(plan(load_workflow(project.config), project), project, as_json=as_json)
