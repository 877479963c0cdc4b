"""Output of `clean`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.markup import escape

from phi_runtime.core.units import size
from phi_runtime.pipeline.cleanup import GROUPS
from phi_scaffold.show.terminal import console, prose, table

if TYPE_CHECKING:
    from phi_runtime.core.project import ProjectFolder
    from phi_runtime.pipeline.cleanup import Removable


def listed(project: ProjectFolder, parts: Sequence[Removable]) -> None:
    """Print what can be deleted, and the commands that do it."""
    if not parts:
        print("There is nothing to delete.")
        return
    result = table("!name", "!folder", ">size", "what is lost")
    for part in parts:
        result.add_row(part.group, escape(project.shown(part.path)), size(part.size_bytes), GROUPS[part.group].lost)
    console().print(result)
    free = sum(part.size_bytes for part in parts if GROUPS[part.group].is_free)
    all_free = f"`phi-scaffold clean --yes` deletes {size(free)} without a loss; " if free else ""
    names = ", ".join(dict.fromkeys(part.group for part in parts))
    prose(f"\nNothing is deleted. {all_free}`phi-scaffold clean NAME --yes` deletes one of {names}.")


def deleted(project: ProjectFolder, parts: Sequence[Removable], *, others: Sequence[Removable], quiet: bool) -> None:
    """Print what was deleted, and what else could be."""
    for part in parts:
        print(f"deleted {project.shown(part.path)} ({size(part.size_bytes)})")
    if quiet:
        return
    if not parts:
        print("There is nothing to delete without a loss." if others else "There is nothing to delete.")
    if others:
        names = dict.fromkeys(part.group for part in others)
        prose(f"More can be deleted: `phi-scaffold clean` shows {', '.join(names)}, and what is lost.")


def as_json(project: ProjectFolder, found: Sequence[Removable], removed: Sequence[Removable]) -> None:
    """Print all of it as one JSON object."""
    parts = [
        {
            "name": part.group,
            "path": project.shown(part.path),
            "size_bytes": part.size_bytes,
            "lost": GROUPS[part.group].lost,
            "deleted": part in removed,
        }
        for part in found
    ]
    print(json.dumps({"parts": parts, "deleted_bytes": sum(part.size_bytes for part in removed)}))
