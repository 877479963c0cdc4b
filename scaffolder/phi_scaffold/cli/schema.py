"""phi-scaffold schema"""

from __future__ import annotations

import json
from typing import Annotated

import typer

from phi_scaffold.cli.options import Debug, Json, Quiet, one_of


def schema(
    name: Annotated[str, typer.Argument(help="workflow, evaluation or sweep.")] = "workflow",
    as_json: Json = False,  # noqa: ARG001
    quiet: Quiet = False,  # noqa: ARG001
    debug: Debug = False,  # noqa: ARG001
) -> None:
    """Print the JSON Schema of the config, or of a file beside it.

    Example: phi-scaffold schema > olive-config.schema.json
    """
    from phi_runtime.config.dialects.json_schema import MODELS, schema_of

    print(json.dumps(schema_of(one_of("schema", name, MODELS)), indent=2, ensure_ascii=False))  # type: ignore[arg-type]
