"""Output of `update`."""

from __future__ import annotations

import difflib
import json
import sys
from typing import TYPE_CHECKING, Any

from phi_runtime.core.project import CONFIG, setup_command
from phi_runtime.core.units import size

if TYPE_CHECKING:
    from phi_scaffold.update.merge import FileChange
    from phi_scaffold.update.project import Update

_UP_TO_DATE = "This project has the template of phi-scaffold {}."
_LONGEST_LINE = 1000  # characters; longer ones are in generated files that nobody reads


def updated(result: Update, *, quiet: bool) -> None:
    """Print each changed file, and what to do next."""
    if not result.changes:
        print(_UP_TO_DATE.format(result.new))
        return
    print(f"phi-scaffold {result.old} → {result.new}")
    for change in result.changes:
        print(f"  {change.kind:<9} {_place(change)}")
    if quiet:
        return
    for note in result.notes:
        print(note)
    changed = {change.path.partition("/")[0] for change in result.changes if change.writes}
    steps = ["git diff"]
    if "setup" in changed:
        steps.append(setup_command())
    if CONFIG.parent.name in changed:
        steps.append("phi-scaffold status   # the config changed")
    print("\nNext steps:\n", *(f"    {step}" for step in steps), sep="\n")
    if result.conflicts:
        print(f"\nconflicts in {len(result.conflicts)} of {len(result.changes)} files", file=sys.stderr)
        print("  help: edit them from each `<<<<<<< yours` to its `>>>>>>>`, then commit", file=sys.stderr)


def _place(change: FileChange) -> str:
    if change.kind == "kept":
        return f"{change.path} ({'you deleted it' if change.before is None else 'no longer in the template'})"
    if change.kind == "conflict" and not change.lines:
        return f"{change.path} (not text: yours is unchanged)"
    return change.path + "".join(f"{',' if n else ':'}{line}" for n, line in enumerate(change.lines))


def diff(result: Update, *, quiet: bool) -> None:
    """Print the changes as a unified diff; on stderr, unless `quiet`, that there are none."""
    if not result.changes and not quiet:
        print(_UP_TO_DATE.format(result.new), file=sys.stderr)
    for change in result.changes:
        if change.writes:
            print(_diff(change), end="")
        else:
            print(f"# {change.kind} {_place(change)}")


def _diff(change: FileChange) -> str:
    before, after = (
        None if text is None else text.decode(errors="replace").splitlines(keepends=True)
        for text in (change.before, change.after)
    )
    names = "/dev/null" if before is None else f"a/{change.path}", "/dev/null" if after is None else f"b/{change.path}"
    if max(map(len, [*(before or []), *(after or [])]), default=0) > _LONGEST_LINE:
        sizes = [size(len(text or b"")) for text in (change.before, change.after)]
        return f"--- {names[0]}\n+++ {names[1]}\n# generated, {sizes[0]} before, {sizes[1]} after\n"
    lines = difflib.unified_diff(before or [], after or [], *names)
    return "".join(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines)


def as_json(result: Update, *, written: bool, diff: bool) -> None:
    """Print all of it as one JSON object."""
    files = [_as_dict(change, diff=diff) for change in result.changes]
    facts = {"from": result.old, "to": result.new, "written": written and bool(files), "files": files}
    print(json.dumps({**facts, "conflicts": len(result.conflicts), "notes": result.notes}))


def _as_dict(change: FileChange, *, diff: bool) -> dict[str, Any]:
    shown = {"path": change.path, "change": change.kind, "lines": change.lines}
    return {**shown, "diff": _diff(change) if change.writes else ""} if diff else shown
