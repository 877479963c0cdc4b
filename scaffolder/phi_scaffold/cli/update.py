"""The command `phi-scaffold update`."""

from __future__ import annotations

from typing import Annotated

import typer

from phi_runtime.core.errors import Conflict
from phi_scaffold.cli.options import OUTPUT, Flags, accepts


@accepts("trust_project", "project_folder", *OUTPUT)
def update(
    flags: Flags,
    diff: Annotated[bool, typer.Option("--diff", help="Show what would change; write nothing.")] = False,
) -> None:
    """Update the generated files of a project to this version of phi-scaffold, and keep your edits.

    Three versions of each file are merged: the generated one, yours, and the new one. Data, models, outputs and `.env` are not
    touched; files that you deleted stay deleted. A conflict is marked in the file, and the exit code is 6. Needs no network;
    commit your changes first.

    Example: phi-scaffold update --diff
    """
    from phi_scaffold.show import update as show_update
    from phi_scaffold.update.project import update as update_project

    project = flags.find_project()
    flags.record_trust(project)
    result = update_project(project, write=not diff)
    if flags.as_json:
        show_update.as_json(result, written=not diff, diff=diff)
    elif diff:
        show_update.diff(result, quiet=flags.quiet)
    else:
        show_update.updated(result, quiet=flags.quiet)
    if result.conflicts:
        raise typer.Exit(Conflict.exit_code)
