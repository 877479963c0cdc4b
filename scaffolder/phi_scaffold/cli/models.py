"""phi-scaffold models"""

from __future__ import annotations

from typing import Annotated

import typer

from phi_scaffold.cli.options import Debug, Json, Quiet


def models(
    model: Annotated[
        str | None, typer.Argument(metavar="[ID]", help="One model, with all that is known of it.")
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,  # noqa: ARG001
    debug: Debug = False,  # noqa: ARG001
) -> None:
    """The models that phi-scaffold knows: size, context, licence, and the memory that each way of working takes.

    Example: phi-scaffold models microsoft/Phi-4-mini-instruct
    """
    from phi_runtime.core.errors import UsageError
    from phi_scaffold.new.catalog import catalog, find_model
    from phi_scaffold.show.models import models as show_models

    known = catalog().models
    if model is not None:
        found = find_model(model)
        if found not in known:
            raise UsageError(
                f"{found} is not in the catalogue; nothing is known of it but that the hub may have it",
                fix="see `phi-scaffold models`",
            )
        known = {found: known[found]}
    show_models(list(known.values()), as_json=as_json, single=model is not None)
