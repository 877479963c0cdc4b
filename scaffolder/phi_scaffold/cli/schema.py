"""The command `phi-scaffold schema`."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from phi_runtime.core.suggestions import one_of
from phi_scaffold.cli import completion
from phi_scaffold.cli.options import Flags, accepts


@accepts("debug")
def schema(
    flags: Flags,  # noqa: ARG001 (--debug acts where it is parsed)
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="workflow, evaluation or sweep.", autocompletion=completion.schemas)
    ] = "workflow",
) -> None:
    """Print the JSON Schema of the workflow config, of evaluation.json or of sweep.yaml.

    Example: phi-scaffold schema > olive-config.schema.json
    """
    from phi_runtime.config.dialects.json_schema import MODELS, schema_of
    from phi_runtime.config.schema import registry

    registry.load_all()
    print(json.dumps(schema_of(one_of("schema", name, MODELS)), indent=2, ensure_ascii=False))  # type: ignore[arg-type]
