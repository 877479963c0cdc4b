"""The command `phi-scaffold doctor`."""

from __future__ import annotations

from pathlib import Path

import typer

from phi_scaffold.cli.options import OUTPUT, Flags, accepts


@accepts("project_folder", *OUTPUT)
def doctor(flags: Flags) -> None:
    """Check this machine and environment, and print the command that fixes each problem.

    Example: phi-scaffold doctor --json
    """
    from phi_runtime.core.errors import MissingDependency, UsageError
    from phi_runtime.core.trust import is_trusted
    from phi_scaffold.doctor import examine
    from phi_scaffold.environment import use_project_environment
    from phi_scaffold.show import doctor as show_doctor

    try:
        project = flags.find_project()
    except UsageError:
        if flags.project_folder is not None:
            raise
        project = None
    if project:
        use_project_environment(project, trusted=is_trusted(project.root), required=False)
    checks = examine(project or Path.cwd())
    show_doctor.checks(checks, as_json=flags.as_json, quiet=flags.quiet)
    if any(check.level == "error" for check in checks):
        raise typer.Exit(MissingDependency.exit_code)
