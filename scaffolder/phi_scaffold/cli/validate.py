"""The command `phi-scaffold validate`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from phi_scaffold.cli.options import OUTPUT, Flags, accepts
from phi_scaffold.show.paths import short_path


@accepts("settings", "task_name", "project_folder", *OUTPUT)
def validate(
    flags: Flags,
    config: Annotated[
        Path | None, typer.Argument(help="Workflow config; default: fine-tuning/olive-config.json.")
    ] = None,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="List older forms instead of counting them.")
    ] = False,
) -> None:
    """Check a workflow config of any Olive version; print each problem with its place, the important ones first.

    Example: phi-scaffold validate fine-tuning/olive-config.json
    """
    from phi_runtime.config.diagnostics import Finding, findings_as_dict
    from phi_runtime.config.dialects.draft import keeps_meaning
    from phi_runtime.core.errors import ConfigError, UsageError
    from phi_runtime.pipeline.load import check_file
    from phi_scaffold.show.findings import print_findings

    if config and flags.project_folder:
        raise UsageError("CONFIG and --project exclude each other", fix="remove one of them")
    path = config or flags.find_project().config
    if not path.is_file():
        raise UsageError(f"no config at {path}", fix="give the path of an olive-config.json")
    try:
        findings = check_file(path, overrides=flags.overrides()).findings
    except ConfigError as e:  # not even JSON
        if e.where is None:
            raise
        findings = [Finding("error", e.where, "syntax", "", e.what, fix=e.fix)]
    errors = [f for f in findings if f.severity == "error"]
    if flags.as_json:
        print(json.dumps(findings_as_dict(findings, path)))
    else:
        print_findings(errors if flags.quiet else findings, verbose=verbose)
        if not flags.quiet:
            warnings = sum(1 for f in findings if f.severity == "warning" and not keeps_meaning(f))
            print(_summary(path, len(errors), warnings), file=sys.stderr)
    if errors:
        raise typer.Exit(ConfigError.exit_code)


def _summary(path: Path, errors: int, warnings: int) -> str:
    counts = [f"{n} {kind}{'s' if n > 1 else ''}" for n, kind in ((errors, "error"), (warnings, "warning")) if n]
    return f"{short_path(path)} is {'not valid' if errors else 'valid'}{': ' if counts else ''}{', '.join(counts)}"
