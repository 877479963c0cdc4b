"""The command `phi-scaffold fetch`."""

from __future__ import annotations

from phi_scaffold.cli.options import OUTPUT, Flags, accepts


@accepts("settings", "trust_project", "trust_remote_code", "project_folder", "config", *OUTPUT)
def fetch(flags: Flags) -> None:
    """Download the base model into model-cache/.

    Example: phi-scaffold fetch
    """
    from phi_scaffold.cli.run import run_stages

    run_stages(flags.enter_project(), flags, only=["fetch"])
