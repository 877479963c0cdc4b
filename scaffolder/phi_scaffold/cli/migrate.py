"""phi-scaffold migrate"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from phi_scaffold.cli.options import Debug, Json, Quiet, open_project


def migrate(
    config: Annotated[
        Path | None, typer.Argument(help="The older config; default: fine-tuning/olive-config.json.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write there and leave the original; - prints it.")
    ] = None,
    dry_run: Annotated[bool, typer.Option(help="Name the translations, write nothing.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,  # noqa: ARG001
) -> None:
    """Write the canonical form of an older Olive config, naming each translation. The original is kept as *.bak.

    Example: phi-scaffold migrate old-config.json --output fine-tuning/olive-config.json
    """
    from phi_runtime.config.dialects.migrate import migrate as write_canonical
    from phi_runtime.core.errors import UsageError

    path = config or open_project(None).config
    if not path.is_file():
        raise UsageError(f"there is no config at {path}", fix="give the path of an older config")
    to_stdout = output is not None and str(output) == "-"
    target = path.with_name(f"{path.stem}.canonical{path.suffix}") if to_stdout else output
    if target is not None and not target.parent.is_dir():
        raise UsageError(f"there is no folder {target.parent}", fix="make it, or check --output")
    done = write_canonical(path, target, write=not dry_run and not to_stdout)
    if to_stdout:
        print(next(iter(done.files.values())), end="")
        return
    if as_json:
        written = [str(file) for file in done.files] if not dry_run else []
        changes = [change.as_dict() for change in done.changes]
        backup = str(done.backup) if done.backup else None
        print(json.dumps({"path": str(path), "changes": changes, "written": written, "backup": backup}))
        return
    if not quiet:
        for change in done.changes:
            print(change)
    if not done.files:
        print(f"{path} is in the canonical form already", file=sys.stderr)
    elif dry_run:
        print(f"{len(done.changes)} changes; nothing was written", file=sys.stderr)
    else:
        names = " and ".join(str(file) for file in done.files)
        kept = f"; the original is kept as {done.backup.name}" if done.backup else ""
        print(f"{len(done.changes)} changes; wrote {names}{kept}", file=sys.stderr)
