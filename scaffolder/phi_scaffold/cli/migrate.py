"""The command `phi-scaffold migrate`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from phi_scaffold.cli.options import OUTPUT, Flags, accepts
from phi_scaffold.show.findings import not_valid_yet, print_findings
from phi_scaffold.show.paths import short_path

if TYPE_CHECKING:
    from phi_runtime.config.dialects.migrate import Migration


@accepts(*OUTPUT)
def migrate(
    flags: Flags,
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="CONFIG",
            help="Older config, or -- and a command line of Olive; default: fine-tuning/olive-config.json.",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="Write to this file (an existing one is kept as *.bak) instead of the config; - prints.",
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option(help="Print the translations; write nothing.")] = False,
) -> None:
    """Rewrite an older Olive config in the current format, and print each translation. The original is kept as *.bak.

    A file with errors is not rewritten. If only the result is not valid, because a data file is missing, say, it is written
    and its errors are listed. The exit code is 3 in both cases.

    `migrate -- olive COMMAND FLAGS` prints the config that a command line of Olive describes.

    Example: phi-scaffold migrate old-config.json --output fine-tuning/olive-config.json
    """
    from phi_runtime.config.dialects.migrate import migrate as write_canonical
    from phi_runtime.config.parse import SWEEP
    from phi_runtime.core.errors import ConfigError, UsageError
    from phi_runtime.pipeline.load import check_file

    config, *words = arguments or (None,)
    if config == "olive" and words:
        print(_of_command_line(words), end="")
        return
    if words:
        raise UsageError("migrate accepts one config", fix=f"run `phi-scaffold migrate {config}`")
    path = Path(config) if config else flags.find_project().config
    if not path.is_file():
        raise UsageError(f"no config at {path}", fix="give the path of an older config")
    to_stdout = output is not None and str(output) == "-"
    target = path.with_name(f"{path.stem}.canonical{path.suffix}") if to_stdout else output
    if target is not None and not target.parent.is_dir():
        raise UsageError(f"no folder {target.parent}", fix="create it, or check --output")
    migration = write_canonical(path, target, write=not dry_run and not to_stdout)
    if to_stdout and sum(file.name != SWEEP for file in migration.files) > 1:
        raise UsageError(
            "several `pass_flows` become several files",
            fix="name them with --output: NEW.json becomes NEW-1.json, NEW-2.json",
        )
    findings = [f for file, text in migration.files.items() for f in check_file(file, text).findings]
    errors = [f for f in findings if f.severity == "error"]
    if to_stdout:
        print(next(iter(migration.files.values())), end="")
    elif flags.as_json:
        written = [str(file) for file in migration.files] if not dry_run else []
        changes = [change.as_dict() for change in migration.changes]
        backup = str(migration.backup) if migration.backup else None
        valid, dicts = not errors, [f.as_dict() for f in findings]
        facts = {"changes": changes, "written": written, "backup": backup, "valid": valid, "findings": dicts}
        print(json.dumps({"path": str(path), **facts}))
    else:
        if not flags.quiet:
            for change in sorted(migration.changes, key=lambda c: not c.changes_result):
                print(change)
        print(_summary(path, migration, dry_run), file=sys.stderr)
    if errors:
        if not flags.as_json:
            print(not_valid_yet(errors), file=sys.stderr)
            print_findings(errors, stderr=True)
        raise typer.Exit(ConfigError.exit_code)


def _of_command_line(words: list[str]) -> str:
    """Return the config that a command line of Olive describes."""
    from phi_runtime.config.diagnostics import raise_if_any
    from phi_runtime.config.dialects.draft import keeps_meaning
    from phi_runtime.config.dialects.migrate import canonical_files
    from phi_runtime.config.parse import parse_config
    from phi_scaffold.olive.arguments import parse
    from phi_scaffold.olive.build import build

    project = build(parse(words), Path.cwd())
    parsed = parse_config(project.source)
    raise_if_any(project.source, parsed.errors)
    for note in project.notes:
        print(note, file=sys.stderr)
    print_findings([w for w in parsed.draft.warnings() if not keeps_meaning(w)], stderr=True)
    return next(iter(canonical_files(parsed.draft, project.source.path).values()))


def _summary(path: Path, migration: Migration, dry_run: bool) -> str:
    if not migration.files:
        return f"{short_path(path)} is in the current format already"
    count = f"{len(migration.changes)} change{'' if len(migration.changes) == 1 else 's'}"
    if dry_run:
        return f"{count}; nothing was written"
    names = " and ".join(short_path(file) for file in migration.files)
    kept = f"; the previous file is kept as {migration.backup.name}" if migration.backup else ""
    return f"{count}; wrote {names}{kept}"
