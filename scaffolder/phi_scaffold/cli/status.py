"""The command `phi-scaffold status`."""

from __future__ import annotations

from phi_scaffold.cli.options import MODEL, Flags, accepts


@accepts("on", "data", *MODEL)
def status(flags: Flags) -> None:
    """Show each stage: cached, stale (and why), failed or never run, and where its output is.

    Example: phi-scaffold status --json
    """
    from phi_runtime.pipeline.load import load_workflow
    from phi_runtime.pipeline.plan import plan
    from phi_scaffold.show import run as show

    project = flags.enter_project()
    stages = plan(load_workflow(project.config, flags.overrides()), project)
    show.status(stages, project, as_json=flags.as_json, quiet=flags.quiet)
