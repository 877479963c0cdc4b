"""phi-scaffold doctor"""

from __future__ import annotations

import typer

from phi_scaffold.cli.options import Debug, Json, ProjectFolder, Quiet


def doctor(
    project_folder: ProjectFolder = None,
    as_json: Json = False,
    quiet: Quiet = False,  # noqa: ARG001
    debug: Debug = False,  # noqa: ARG001
) -> None:
    """What this machine and environment have, and the line that mends what they lack.

    Example: phi-scaffold doctor --json
    """
    from pathlib import Path

    from phi_runtime.core.errors import MissingDependency, UsageError
    from phi_runtime.core.project import find_project, read_dotenv
    from phi_scaffold.doctor import examine
    from phi_scaffold.environment import use_project_environment
    from phi_scaffold.show import run as show

    try:
        project = find_project(project_folder or Path.cwd())
    except UsageError:
        if project_folder is not None:
            raise
        project = None
    if project:
        read_dotenv(project.root)
        use_project_environment(project, required=False)
    findings = examine(project)
    show.doctor(findings, as_json=as_json)
    if any(f.level == "fault" for f in findings):
        raise typer.Exit(MissingDependency.exit_code)
