"""The command `phi-scaffold migrate`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from phi_scaffold.cli.options import OUTPUT, Flags, accepts


@accepts(*OUTPUT)
def migrate(
    flags: Flags,
    config: Annotated[Path | None, typer.Argument(help="Older config; default: fine-tuning/olive-config.json.")] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Write to this file instead of replacing the config; - prints."),
    ] = None,
    dry_run: Annotated[bool, typer.Option(help="Print the translations; write nothing.")] = False,
) -> None:
    """Rewrite an older Olive config in the current format, and print each translation. The original is kept as *.bak.

    Example: phi-scaffold migrate old-config.json --output fine-tuning/olive-config.json
    """
    from phi_runtime.config.dialects.migrate import migrate as write_canonical
    from phi_runtime.core.errors import UsageError

    path = config or flags.find_project().config
    if not path.is_file():
        raise UsageError(f"no config at {path}", fix="give the path of an older config")
    to_stdout = output is not None and str(output) == "-"
    target = path.with_name(f"{path.stem}.canonical{path.suffix}") if to_stdout else output
    if target is not None and not target.parent.is_dir():
        raise UsageError(f"no folder {target.parent}", fix="create it, or check --output")
    migration = write_canonical(path, target, write=not dry_run and not to_stdout)
    if to_stdout:
        print(next(iter(migration.files.values())), end="")
        return
    if flags.as_json:
        written = [str(file) for file in migration.files] if not dry_run else []
        changes = [change.as_dict() for change in migration.changes]
        backup = str(migration.backup) if migration.backup else None
        print(json.dumps({"path": str(path), "changes": changes, "written": written, "backup": backup}))
        return
    if not flags.quiet:
        for change in migration.changes:
            print(change)
    if not migration.files:
        print(f"{path} is in the current format already", file=sys.stderr)
    elif dry_run:
        print(f"{len(migration.changes)} changes; nothing was written", file=sys.stderr)
    else:
        names = " and ".join(str(file) for file in migration.files)
        kept = f"; the original is kept as {migration.backup.name}" if migration.backup else ""
        print(f"{len(migration.changes)} changes; wrote {names}{kept}", file=sys.stderr)
