"""Output of `new`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from phi_runtime.core.project import setup_command
from phi_scaffold.show.terminal import prose

if TYPE_CHECKING:
    from phi_scaffold.new.generate import CreatedProject


def planned(folder: Path, project: CreatedProject) -> None:
    """Print the files that `new` would write."""
    print(f"{folder}/ would contain {len(project.files)} files:")
    print(tree(project.files))


def created(folder: Path, project: CreatedProject, command: str) -> None:
    """Print notes on the new project, the next steps, and the command that creates it without questions."""
    for note in project.notes:
        prose(note)
    for name in project.backed_up:
        print(f"kept your {name} as {name}.bak")
    print(f"\nCreated {folder} ({len(project.files)} files). Next steps:\n")
    setup = setup_command()
    if sys.platform == "win32":
        setup = setup.replace("-File", "-ExecutionPolicy Bypass -File")
    steps = [f'cd "{folder}"' if " " in str(folder) else f"cd {folder}", setup, "phi-scaffold run", "phi-scaffold chat"]
    print("\n".join(f"    {step}" for step in steps))
    print(f"\nThe same project without questions:\n\n    {command}")


def tree(files: Sequence[str]) -> str:
    """Format paths as an indented tree."""
    lines: list[str] = []
    seen: set[str] = set()
    for name in sorted(files, key=lambda f: ("/" not in f, f)):
        *folders, last = name.split("/")
        for depth in range(len(folders)):
            path = "/".join(folders[: depth + 1])
            if path not in seen:
                seen.add(path)
                lines.append(f"{'  ' * (depth + 1)}{folders[depth]}/")
        lines.append(f"{'  ' * (len(folders) + 1)}{last}")
    return "\n".join(lines)
