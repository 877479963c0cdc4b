"""Paths for people: relative to the current folder."""

from __future__ import annotations

import os
import re
from pathlib import Path


def short_path(path: Path | str) -> str:
    """Return `path` relative to the current folder if that is shorter; a command-line option unchanged."""
    if str(path).startswith("--"):
        return str(path)
    try:
        relative = os.path.relpath(path)
    except (ValueError, OSError):  # another drive of Windows; the current folder was deleted
        return str(path)
    return min(relative, str(path), key=len)


def with_short_paths(message: str) -> str:
    """Write the paths below the current folder in `message` relative to it."""
    try:
        folder = Path.cwd()
    except OSError:  # it was deleted
        return message
    pattern = rf"(?<![\w./\\-]){re.escape(f'{folder}{os.sep}')}"
    return message if folder == folder.parent else re.sub(pattern, "", message)
