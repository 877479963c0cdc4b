"""The command `phi-scaffold models`."""

from __future__ import annotations

from typing import Annotated

import typer

from phi_scaffold.cli.options import OUTPUT, Flags, accepts


@accepts(*OUTPUT)
def models(
    flags: Flags,
    model: Annotated[str | None, typer.Argument(metavar="[ID]", help="Show one model in full.")] = None,
) -> None:
    """List the known models: size, context, license, and the memory that each training method needs.

    Example: phi-scaffold models microsoft/Phi-4-mini-instruct
    """
    from phi_runtime.core.errors import UsageError
    from phi_scaffold.new.catalog import catalog, find_model
    from phi_scaffold.show import models as show_models

    known = catalog().models
    if model is None:
        show_models.table(list(known.values()), as_json=flags.as_json, quiet=flags.quiet)
    elif (match := find_model(model)) in known:
        show_models.single(known[match], as_json=flags.as_json, quiet=flags.quiet)
    else:
        raise UsageError(f"`{match}` is not in the catalog", fix="see `phi-scaffold models`")
