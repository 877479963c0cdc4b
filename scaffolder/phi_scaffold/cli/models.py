"""The command `phi-scaffold models`."""

from __future__ import annotations

from typing import Annotated

import typer

from phi_scaffold.cli.completion import model_ids
from phi_scaffold.cli.options import OUTPUT, Flags, accepts


@accepts(*OUTPUT)
def models(
    flags: Flags,
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME",
            help="An id: show that model in full. A part of a name, such as phi or qwen: list those.",
            autocompletion=model_ids,
        ),
    ] = None,
) -> None:
    """List the known models: size, license, and the memory that each training method needs.

    Example: phi-scaffold models microsoft/Phi-4-mini-instruct
    """
    from phi_runtime.core.errors import UsageError
    from phi_runtime.models.known import known_id
    from phi_scaffold.new.base_models import find_base_model, matching_models
    from phi_scaffold.new.catalog import catalog
    from phi_scaffold.show import models as show_models

    known = catalog().models
    found = list(known) if name is None else [] if known_id(name) else matching_models(name)
    if len(found) > 1:
        show_models.table([known[id_] for id_ in found], as_json=flags.as_json, quiet=flags.quiet)
        return
    match = find_base_model(name or "")
    if match not in known:
        raise UsageError(f"`{match}` is not in the catalog", fix="see `phi-scaffold models`")
    show_models.single(known[match], as_json=flags.as_json, quiet=flags.quiet)
