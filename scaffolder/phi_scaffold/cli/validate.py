"""phi-scaffold validate"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from phi_scaffold.cli.options import Debug, Json, Quiet, open_project


def validate(
    config: Annotated[
        Path | None, typer.Argument(help="The workflow config; default: fine-tuning/olive-config.json.")
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,  # noqa: ARG001
) -> None:
    """Check a workflow config; every fault as path:line:column: error: …

    Example: phi-scaffold validate fine-tuning/olive-config.json
    """
    from phi_runtime.errors import ConfigError, UsageError
    from phi_runtime.workflow.load import as_dict, check

    path = config or open_project(None).config
    if not path.is_file():
        raise UsageError(f"there is no config at {path}", fix="give the path of an olive-config.json")
    try:
        _, _, findings = check(path)
    except ConfigError as e:  # not even JSON
        if as_json and e.where:
            one = {
                "severity": "error",
                "line": e.where.line,
                "column": e.where.column,
                "rule": "syntax",
                "key": "",
                "message": e.what,
                "suggestion": None,
            }
            print(json.dumps({"path": str(path), "valid": False, "findings": [one]}))
            raise typer.Exit(e.exit_code) from e
        raise
    if as_json:
        print(json.dumps(as_dict(findings, path)))
    else:
        for finding in findings:
            print(finding)
        if not findings and not quiet:
            print(f"{path} is valid")
    if any(f.severity == "error" for f in findings):
        raise typer.Exit(ConfigError.exit_code)
