"""Findings and errors for people: what is wrong and where, the line of the file, and what to do.

On a terminal in colors, elsewhere as plain lines that start with `path:line:column`.
"""

from __future__ import annotations

import shutil
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from phi_runtime.core.errors import Location, PhiError
from phi_runtime.core.units import count
from phi_scaffold.show.inert import inert
from phi_scaffold.show.paths import short_path, with_short_paths

if TYPE_CHECKING:
    from phi_runtime.config.diagnostics import Finding

_PIPED_WIDTH = 120
_MOST = 200  # findings that are printed: nobody reads more at once
_COLORS = {"error": "bold red", "warning": "yellow", "note": "cyan"}
Part = tuple[str, str]  # text and style


def print_findings(findings: Sequence[Finding], *, stderr: bool = False, verbose: bool = False) -> None:
    """Print errors, then warnings, those that change the result first; older forms are one line per file unless `verbose`."""
    from phi_runtime.config.dialects.draft import keeps_meaning

    older_forms = [f for f in findings if keeps_meaning(f)]
    others = sorted(
        (f for f in findings if not keeps_meaning(f)), key=lambda f: (f.severity != "error", not f.changes_result)
    )
    for finding in others[:_MOST]:
        _print_finding(finding, stderr)
    if (more := len(others) - _MOST) > 0:
        _print_lines([[(f"and {more} more: `phi-scaffold validate --json` lists all", "")]], stderr)
    if verbose:
        for finding in older_forms:
            _print_finding(finding, stderr)
        return
    for path, rules in _counted(older_forms).items():
        _print_lines([_head(Location(path), "note", _older_forms(rules))], stderr)


def not_valid_yet(errors: Sequence[Finding]) -> str:
    """Return the line before the errors in a config that was written."""
    return f"the result is not valid yet: {count(len(errors), 'error')}"


def print_error(error: PhiError) -> None:
    """Print an error to stderr: its findings, if it has any, or its message and line; and what to do."""
    findings = getattr(error, "findings", ())
    if findings:
        print_findings(findings, stderr=True)
    else:
        _print_lines([_head(error.where, "error", error.what), *_excerpt(error.where, stderr=True)], stderr=True)
    if error.fix and not _is_printed(error.fix, findings):
        _print_lines([_help(error.fix)], stderr=True)


def _is_printed(fix: str, findings: Sequence[Finding]) -> bool:
    """Return True if a fix repeats what is printed with the findings: a suggestion, or how to list all of them."""
    printed = {text for f in findings for text in (f.fix, f"write `{f.suggestion}`")}
    return fix in printed or (bool(findings) and fix.startswith("list all"))


def _print_finding(finding: Finding, stderr: bool) -> None:
    lines = [_head(finding.where, finding.severity, finding.text)]
    if finding.severity == "error" and finding.rule != "secret":
        lines += _excerpt(finding.where, stderr)
    if finding.fix:
        lines.append(_help(finding.fix))
    _print_lines(lines, stderr)


def _head(where: Location | None, severity: str, message: str) -> list[Part]:
    place = f"{Location(short_path(where.path), where.line, where.column)}: " if where else ""
    return [(place, "bold"), (f"{severity}: ", _COLORS[severity]), (with_short_paths(message), "")]


def _help(fix: str) -> list[Part]:
    return [("  help: ", "cyan"), (fix, "")]


def _excerpt(where: Location | None, stderr: bool) -> list[list[Part]]:
    from phi_scaffold.show.excerpt import excerpt

    stream = sys.stderr if stderr else sys.stdout
    width = shutil.get_terminal_size().columns if stream.isatty() else _PIPED_WIDTH
    lines = excerpt(where, width) if where else None
    return [[(lines[0], "")], [(lines[1], "bold red")]] if lines else []


def _counted(older_forms: Sequence[Finding]) -> dict[Path | str, Counter[str]]:
    counts: dict[Path | str, Counter[str]] = {}
    for finding in older_forms:
        counts.setdefault(finding.where.path, Counter())[finding.rule] += 1
    return counts


def _older_forms(rules: Counter[str]) -> str:
    kinds = ", ".join(f"{count} {rule}" for rule, count in rules.most_common())
    count = f"{rules.total()} older forms keep their" if rules.total() > 1 else "1 older form keeps its"
    return f"{count} meaning: {kinds} (list: `--verbose`, rewrite: `phi-scaffold migrate`)"


def _print_lines(lines: Sequence[Sequence[Part]], stderr: bool) -> None:
    stream = sys.stderr if stderr else sys.stdout
    if not stream.isatty():
        for line in lines:
            print(inert("".join(text for text, _ in line)), file=stream)
        return
    from rich.text import Text

    from phi_scaffold.show.terminal import console

    out = console(stderr)
    for line in lines:
        out.print(Text.assemble(*line), soft_wrap=True)
