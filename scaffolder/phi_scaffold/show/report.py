"""Output of `report`, and the report at the end of `run`."""

from __future__ import annotations

import json
import shutil
import subprocess
import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phi_scaffold.show.terminal import note

if TYPE_CHECKING:
    from phi_runtime.core.project import ProjectFolder


def report(path: Path, content: dict[str, Any], project: ProjectFolder, *, as_json: bool, open_it: bool) -> None:
    """Print the path of a report or, as JSON, what is in it; open it in the browser."""
    if as_json:
        print(json.dumps({"path": project.shown(path), **content}))
    else:
        print(f"Report: {project.shown(path)}")
    if open_it and not _open(path):
        note(f"no browser was found; open {path}")


def report_of_run(path: Path | None, project: ProjectFolder) -> None:
    """Print the path of the report that a run has written."""
    if path is not None:
        print(f"Report: {project.shown(path)}")


def _open(path: Path) -> bool:
    """Open a page in the browser: in WSL, that of Windows. Return False if there is none."""
    if shutil.which("wslpath") and (explorer := shutil.which("explorer.exe")):
        windows = subprocess.run(["wslpath", "-w", str(path)], capture_output=True, text=True, check=False)
        if windows.returncode == 0:  # explorer.exe has exit code 1 even if it has opened the page
            subprocess.run([explorer, windows.stdout.strip()], check=False)
            return True
    return webbrowser.open(path.as_uri())
