"""The command `phi-scaffold models`."""

from __future__ import annotations

from contextlib import suppress
from typing import Annotated

import typer

from phi_scaffold.cli.completion import model_ids
from phi_scaffold.cli.options import OUTPUT, Flags, accepts


@accepts("project_folder", *OUTPUT)
def models(
    flags: Flags,
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME",
            help="An id or a model folder: show that model in full. A part of a name, such as phi or qwen: list those.",
            autocompletion=model_ids,
        ),
    ] = None,
    cached: Annotated[
        bool, typer.Option("--cached", help="List the models in the project's model-cache/, with size and folder.")
    ] = False,
) -> None:
    """List the known models: size, license, and the memory that each training method needs.

    Example: phi-scaffold models microsoft/Phi-4-mini-instruct
    """
    from phi_runtime.core.errors import UsageError
    from phi_runtime.models.known import known_id
    from phi_scaffold.new.base_models import base_model, downloaded_model, find_base_model, matching_models
    from phi_scaffold.new.catalog import catalog
    from phi_scaffold.show import models as show_models

    if cached:
        show_models.downloaded(flags.find_project(), as_json=flags.as_json)
        return
    known = catalog().models
    found = list(known) if name is None else [] if known_id(name) else matching_models(name)
    if len(found) > 1:
        show_models.table([known[id_] for id_ in found], as_json=flags.as_json, quiet=flags.quiet)
        return
    match = find_base_model(name or "")
    model = base_model(match)
    if model is None:
        with suppress(UsageError):  # in no project
            model = downloaded_model(match, flags.find_project())
    if model is None:
        raise UsageError(
            f"`{match}` is not in the catalog, and not in the model-cache/ of a project here",
            fix="see `phi-scaffold models`, or run `phi-scaffold fetch` in a project that uses it",
        )
    show_models.single(model, as_json=flags.as_json, quiet=flags.quiet)
