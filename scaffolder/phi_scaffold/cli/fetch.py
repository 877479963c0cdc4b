"""The command `phi-scaffold fetch`."""

from __future__ import annotations

from typing import Annotated

import typer

from phi_scaffold.cli.options import OUTPUT, Flags, accepts


@accepts("settings", "trust_project", "trust_remote_code", "project_folder", "config", *OUTPUT)
def fetch(
    flags: Flags,
    list_models: Annotated[
        bool, typer.Option("--list", help="Instead, list the models in model-cache/, as `models --cached` does.")
    ] = False,
) -> None:
    """Download the base model into model-cache/.

    Example: phi-scaffold fetch
    """
    if list_models:
        from phi_scaffold.show import models as show_models

        show_models.downloaded(flags.find_project(), as_json=flags.as_json)
        return
    from phi_scaffold.cli.run import run_stages

    run_stages(flags.enter_project(), flags, only=["fetch"])
