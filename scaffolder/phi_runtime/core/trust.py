"""Trust in a project: its own code runs only if the user made its environment here, or said so once.

A project's code is the interpreter in its .venv, hooks.py, and the user_script of a config. A project may come from anyone: as
an archive, as a clone, or as a folder of another user above the current one. Its setup and `--trust-project` record its folder
in a file of the user's that no project can write.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import Literal

from phi_runtime.core.artifacts import read_json, write_json

By = Literal["setup", "user"]


def record_file() -> Path:
    """Return the file that records the trusted projects of this user: `{folder: "setup" or "user"}`."""
    if os.name == "nt":
        state = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    else:
        state = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    return state / "phi-scaffold" / "trusted-projects.json"


def trust(root: Path, by: By) -> None:
    """Record that code of the project in `root` may run. Raises OSError."""
    folders = _folders()
    key = str(root.resolve())
    if folders.get(key) in ("user", by):
        return
    file = record_file()
    file.parent.mkdir(parents=True, exist_ok=True)
    write_json(file, {**folders, key: by})


def is_trusted(root: Path) -> bool:
    """Return True if code of the project in `root` may run.

    A project that only its setup has recorded must also belong to this user, and be writable by no others: they could
    replace its files.
    """
    by = _folders().get(str(root.resolve()))
    parts = (root, root / ".venv", root / "fine-tuning")
    return by == "user" or (by == "setup" and all(_is_closed(part) for part in parts if part.exists()))


def is_own(path: Path) -> bool:
    """Return True if the file or folder belongs to this user, to root, or to the user who called sudo; always on Windows."""
    if os.name == "nt":
        return True
    owners = {os.geteuid(), 0}
    if os.geteuid() == 0:
        owners.add(int(os.environ.get("SUDO_UID", "0")))
    try:
        return path.stat().st_uid in owners
    except OSError:
        return False


def _is_closed(folder: Path) -> bool:
    """Return True if the folder belongs to this user and only the owner and the group write in it (umask 002)."""
    return is_own(folder) and (os.name == "nt" or not folder.stat().st_mode & stat.S_IWOTH)


def _folders() -> dict[str, str]:
    with suppress(OSError, ValueError):
        folders = read_json(record_file())
        if isinstance(folders, dict):
            return folders
    return {}
