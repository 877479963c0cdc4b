"""The command `phi-scaffold clean`."""

from __future__ import annotations

from typing import Annotated

import typer

from phi_scaffold.cli import completion
from phi_scaffold.cli.options import MODEL, Flags, accepts
from phi_scaffold.environment import use_project_environment


@accepts(*MODEL)
def clean(
    flags: Flags,
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="NAME",
            help="What to delete, of the names that are listed; default: what is deleted without a loss.",
            autocompletion=completion.removable,
        ),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Delete it. Without this, nothing is deleted.")] = False,
) -> None:
    """Show what of model-cache/ and gen-model/ can be deleted, with its size and what is lost.

    Example: phi-scaffold clean merged --yes
    """
    from phi_runtime.pipeline import cleanup
    from phi_scaffold.show import clean as show_clean

    project = flags.find_project()
    use_project_environment(project, trusted=flags.record_trust(project))  # stages depend on the versions of libraries
    cleanup.check_names(names or ())
    found = cleanup.removable(project, flags.overrides())
    chosen = [part for part in found if (part.group in names if names else cleanup.GROUPS[part.group].is_free)]
    if yes:
        cleanup.remove(project, chosen)
    if flags.as_json:
        show_clean.as_json(project, found, chosen if yes else [])
    elif yes:
        show_clean.deleted(project, chosen, others=[part for part in found if part not in chosen], quiet=flags.quiet)
    else:
        show_clean.listed(project, found)
