"""Write the changes of an update: all of them or none, also if the process is killed."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from phi_runtime.core.artifacts import read_json, write_json
from phi_runtime.core.errors import WorkFailed
from phi_runtime.core.signals import handled_by, interrupt
from phi_scaffold.update.merge import FileChange

STAGING = ".phi-scaffold-update"
_JOURNAL = "journal.json"


def apply(root: Path, changes: Sequence[FileChange]) -> None:
    """Write `changes` to the project in `root`.

    The new files and copies of the old ones are in a folder of the project before the first one is replaced, with a journal. An
    error, Ctrl-C or the next `restore` copies the old ones back, unless the journal is gone: then the update is complete.

    Raises:
        WorkFailed: A file cannot be written; the project is unchanged.
    """
    staging = root / STAGING
    try:
        with handled_by(interrupt):
            _stage(root, staging, changes)
            for number, change in enumerate(changes):
                target = root / change.path
                if change.after is None:
                    target.unlink()
                else:
                    target.parent.mkdir(parents=True, exist_ok=True)
                    (staging / f"{number}.new").replace(target)
    except BaseException as e:
        restore(root)
        if isinstance(e, OSError):
            raise WorkFailed(
                f"cannot write {e.filename or root}: {e.strerror}; the project is unchanged",
                fix="check its permissions and the free space on its disk",
            ) from e
        raise
    (staging / _JOURNAL).unlink()
    shutil.rmtree(staging)


def _stage(root: Path, staging: Path, changes: Sequence[FileChange]) -> None:
    staging.mkdir()
    for number, change in enumerate(changes):
        target = root / change.path
        if change.after is not None:
            (staging / f"{number}.new").write_bytes(change.after)
        if change.before is not None:
            shutil.copy2(target, staging / f"{number}.old")
            if change.after is not None:
                shutil.copymode(target, staging / f"{number}.new")
    write_json(staging / _JOURNAL, [[change.path, change.before is not None] for change in changes])


def is_interrupted(root: Path) -> bool:
    """Return True if an update of the project in `root` was killed before it was complete."""
    return (root / STAGING / _JOURNAL).is_file()


def restore(root: Path) -> None:
    """Undo an update that is not complete. Does nothing if there is none."""
    staging = root / STAGING
    if is_interrupted(root):
        for number, (name, existed) in enumerate(read_json(staging / _JOURNAL)):
            backup = staging / f"{number}.old"
            if not existed:
                (root / name).unlink(missing_ok=True)
            elif backup.is_file():  # else it was restored before this process was killed, too
                backup.replace(root / name)
        (staging / _JOURNAL).unlink()
    shutil.rmtree(staging, ignore_errors=True)
