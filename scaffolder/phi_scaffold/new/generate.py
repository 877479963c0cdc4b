"""Create a project from answers: render the template, and put it into its folder. Works offline and without git."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from phi_runtime.core.artifacts import free_name
from phi_runtime.core.errors import Conflict, UsageError, WorkFailed
from phi_runtime.core.project import CONFIG
from phi_scaffold.new.answers import Answers, check_name
from phi_scaffold.new.data_source import LocalData
from phi_scaffold.new.derive import derive, recorded
from phi_scaffold.new.template_files import render

if TYPE_CHECKING:
    from phi_scaffold.new.existing import ExistingConfig

_LARGEST_COMMIT = 50_000_000  # bytes; larger data hardly belongs into git


@dataclass(frozen=True)
class CreatedProject:
    """A new project: its folder, its files, notes for the user, and the user's files that were renamed to *.bak."""

    folder: Path
    files: tuple[str, ...]
    notes: tuple[str, ...] = ()
    backed_up: tuple[str, ...] = ()


def new(
    folder: Path,
    answers: Answers,
    *,
    existing: ExistingConfig | None = None,
    force: bool = False,
    dry_run: bool = False,
) -> CreatedProject:
    """Create a project.

    Args:
        folder: Folder of the project; must be absent or empty.
        answers: Choices of the user.
        existing: An existing config for the project.
        force: Accept a folder with files, and rename those in the way to *.bak.
        dry_run: Write nothing.

    Raises:
        UsageError: An answer is not usable.
        DataError: The user's data file is not usable.
        Conflict: The folder is not empty.
        WorkFailed: The folder cannot be written.
    """
    folder = folder.absolute()
    name = check_name(folder)
    values, notes = derive(answers)
    if existing:
        values |= existing.data
    _refuse_conflict(folder, force)
    with tempfile.TemporaryDirectory(prefix=".phi-scaffold-", dir=_existing_parent(folder)) as temporary:
        tree = Path(temporary) / "project"
        render(tree, {"project_name": name, **values, "recorded": recorded(values)})
        if existing:
            notes = existing.notes
            _write_existing(tree, existing)
        elif isinstance(answers.source, LocalData):
            answers.source.copy_to(tree / "datasets")
        files = tuple(sorted(p.relative_to(tree).as_posix() for p in tree.rglob("*") if p.is_file()))
        if dry_run:
            return CreatedProject(folder, files, notes)
        try:
            return CreatedProject(folder, files, notes, _install(tree, folder, files))
        except OSError as e:
            raise WorkFailed(
                f"cannot write {folder}: {e.strerror}", fix="check its permissions and the free space on its disk"
            ) from e


def _write_existing(tree: Path, existing: ExistingConfig) -> None:
    """Replace the config of the rendered project, and the files next to it, by those of an existing one."""
    from phi_runtime.config.parse import EVALUATION, SWEEP

    for name in (EVALUATION, SWEEP) if existing.workflow.finetune is None else (SWEEP,):
        (tree / CONFIG).with_name(name).unlink()
    for name, text in existing.texts.items():
        (tree / name).write_text(text, encoding="utf-8", newline="\n")
    for name, file in existing.copies.items():
        shutil.copyfile(file, tree / name)


def _existing_parent(folder: Path) -> Path:
    """Return the nearest existing folder above `folder`; raise UsageError if it is not a writable folder."""
    parent = next(p for p in folder.parents if p.exists())
    if not parent.is_dir():
        raise UsageError(f"{parent} is a file, not a folder", fix="choose another path")
    if not os.access(parent, os.W_OK):
        raise UsageError(f"{parent} is not writable", fix="choose another path")
    return parent


def _refuse_conflict(folder: Path, force: bool) -> None:
    if folder.is_file():
        raise Conflict(f"{folder} is a file", fix="choose another name")
    if force or not folder.is_dir():
        return
    existing = sorted(p.name + ("/" if p.is_dir() else "") for p in folder.iterdir() if p.name != ".git")
    if existing:
        shown = ", ".join(existing[:8]) + (f" and {len(existing) - 8} more" if len(existing) > 8 else "")
        raise Conflict(
            f"{folder} is not empty: it contains {shown}",
            fix="choose another name, or add --force (files in the way are kept as *.bak)",
        )


def _install(tree: Path, folder: Path, files: Sequence[str]) -> tuple[str, ...]:
    """Move the rendered tree into place, in one rename if the folder is absent; return the files that were backed up."""
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        tree.replace(folder)
        return ()
    parents = {folder / parent for name in files for parent in Path(name).parents}
    if link := next((parent for parent in sorted(parents) if parent != folder and parent.is_symlink()), None):
        raise Conflict(
            f"{link} is a link, and files are not written through it", fix="remove it, or choose another name"
        )
    backed_up = []
    for name in files:
        source, target = tree / name, folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists():
            if target.is_file() and target.read_bytes() == source.read_bytes():
                continue
            target.replace(free_name(target))
            backed_up.append(name)
        source.replace(target)
    return tuple(backed_up)


def init_git(folder: Path) -> bool:
    """Create a git repository in `folder`, with a first commit if git knows its author and the files are small.

    Does nothing if git is not installed or `folder` is in a repository.
    """

    def git(*arguments: str) -> bool:
        return subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, check=False).returncode == 0

    if not shutil.which("git") or git("rev-parse", "--is-inside-work-tree") or not git("init", "--quiet"):
        return False
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    if size <= _LARGEST_COMMIT and git("config", "user.email"):
        git("add", "--all") and git("commit", "--quiet", "--message", "Create the project with phi-scaffold")
    return True
