"""The command `phi-scaffold report`."""

from __future__ import annotations

from typing import Annotated

import typer

from phi_scaffold.cli.options import MODEL, Flags, accepts


@accepts("on", "data", *MODEL)
def report(
    flags: Flags,
    open_it: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
) -> None:
    """Write the last run as one HTML page: verdict, models, losses, errors, slices, data, and how to repeat it.

    Example: phi-scaffold report --open
    """
    from phi_runtime.pipeline.load import load_workflow
    from phi_runtime.report.write import write_report
    from phi_scaffold.show import report as show

    project = flags.enter_project()
    workflow = load_workflow(project.config, flags.overrides())
    path, content = write_report(workflow, project)
    show.report(path, content, project, as_json=flags.as_json, open_it=open_it)
