"""Update a project: find the template that it was created from, merge, and write."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from phi_runtime.core.errors import Conflict, Location, MissingDependency, PhiError, UsageError, WorkFailed
from phi_runtime.core.locks import exclusive_tasks
from phi_runtime.core.project import CONFIG, ProjectFolder, setup_command
from phi_runtime.core.trust import is_trusted
from phi_scaffold import __version__
from phi_scaffold.new.derive import derive, of_this_version, recorded
from phi_scaffold.new.questions import answers_from, answers_of_copier, load_answers
from phi_scaffold.new.template_files import LOCAL_REQUIREMENT, render, template_root
from phi_scaffold.update.apply import apply, is_interrupted, restore
from phi_scaffold.update.merge import FileChange, changes
from phi_scaffold.update.releases import released_versions, unpack

ANSWERS = ".copier-answers.yml"
_REPLACED = (ANSWERS, LOCAL_REQUIREMENT)


@dataclass(frozen=True)
class Update:
    """An update of a project between two versions of phi-scaffold; without changes if it has the template of this version."""

    old: str
    new: str
    changes: tuple[FileChange, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def conflicts(self) -> tuple[FileChange, ...]:
        return tuple(change for change in self.changes if change.kind == "conflict")


def update(project: ProjectFolder, *, write: bool) -> Update:
    """Update the generated files of a project to the template of this version, and keep the user's edits.

    Args:
        project: The project, which git tracks.
        write: Write the result; else only return it.

    Raises:
        UsageError: The project is not trusted, or its template is not known.
        Conflict: It has uncommitted changes or a run, or a link is in the way of a file.
        MissingDependency: git is not installed.
        WorkFailed: A file cannot be written; the project is unchanged.
    """
    if shutil.which("git") is None:
        raise MissingDependency("`update` needs git", fix="install it from https://git-scm.com")
    root = project.root
    if not write:
        if is_interrupted(root):
            raise Conflict(
                "an update of this project was interrupted", fix="run `phi-scaffold update`, which restores it"
            )
        return _planned(root)
    _require_trust(root)
    with exclusive_tasks(project):
        restore(root)
        planned = _planned(root)
        if planned.changes:
            _require_commit(root)
            apply(root, [change for change in planned.changes if change.writes])
    return planned


def _planned(root: Path) -> Update:
    file = root / ANSWERS
    values = _answers(file)
    old = str(values["phi_scaffold_version"])
    if old == __version__:
        return Update(old, __version__)
    if old not in released_versions():
        raise UsageError(
            f"this project has the template of phi-scaffold {old}, which {__version__} does not know",
            where=Location(file),
            fix=f"install a newer phi-scaffold; if {old} was no release: {_AS_A_NEW_ONE}",
        )
    with TemporaryDirectory(prefix="phi-scaffold-") as temporary:
        folder = Path(temporary)
        new_root = template_root(folder)
        current, notes = _values_of_this_version(new_root, values, root)
        trees = folder / "old" / root.name, folder / "new" / root.name
        try:
            render(trees[0], values | {"recorded": {}}, unpack(old, folder / "release"))
            render(trees[1], current, new_root)
        except WorkFailed as e:
            raise UsageError(
                str(e), where=Location(file), fix="correct this value, or restore the file from git"
            ) from e
        found = changes(
            *trees,
            root,
            versions=(old, __version__),
            replaced=_REPLACED,
            ignored=(CONFIG.parent.name,) if values.get("existing_config") else (),
        )
    return Update(old, __version__, tuple(found), tuple(notes))


_AS_A_NEW_ONE = f"`phi-scaffold new NAME --from {ANSWERS}`, then move your edits"


def _answers(file: Path) -> dict[str, Any]:
    """Return the values that the template was rendered with."""
    if not file.is_file():
        fix = f"`phi-scaffold new NAME --config {CONFIG.as_posix()}` creates a project around its config"
        raise UsageError(f"`update` needs {ANSWERS}, which `new` writes", where=Location(file), fix=fix)
    answers = load_answers(file, fix="restore this file from git")
    if answers.get("_src_path") != "phi-scaffold":
        raise UsageError("this project was created by copier", where=Location(file), fix="copier update")
    if "phi_scaffold_version" not in answers:
        raise UsageError(
            "this project was created before phi-scaffold had releases", where=Location(file), fix=_AS_A_NEW_ONE
        )
    return {name: value for name, value in answers.items() if not name.startswith("_")}


def _values_of_this_version(template: Path, answers: dict[str, Any], root: Path) -> tuple[dict[str, Any], list[str]]:
    """Return values for all questions of the template: those of the project, and derived ones for questions that are new."""
    import yaml

    questions = yaml.safe_load((template / "copier.yml").read_text(encoding="utf-8"))
    values, notes = answers | of_this_version(), []
    added = [name for name in questions if not name.startswith("_") and name not in (*values, "recorded")]
    if added and not answers.get("existing_config"):
        try:
            derived, _ = derive(answers_from(answers_of_copier(answers, root)))
            values |= {name: derived[name] for name in added if name in derived}
        except PhiError as e:
            notes.append(f"{', '.join(added)}: the default is used, because it cannot be derived: {e.what}")
    return {**values, "recorded": recorded({name: values[name] for name in values if name in questions})}, notes


def _require_trust(root: Path) -> None:
    """Raise UsageError if the project is not trusted: git would run programs that the config of its repository names."""
    if not is_trusted(root):
        raise UsageError(
            "git runs programs that a repository names, and this project was not set up here",
            fix=f"run `{setup_command()}` in it, or pass --trust-project if you trust its files",
        )


def _require_commit(root: Path) -> None:
    def git(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = ["git", "-C", str(root), "-c", "core.quotePath=false", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    status = git("status", "--porcelain", "--", ".")
    if status.returncode:
        raise Conflict(
            f"{root} is in no git repository, which would show what the update changes",
            fix='git init && git add --all && git commit -m "Before the update"',
        )
    changed = [re.sub(r"^.. ", "", line) for line in status.stdout.splitlines()]
    if changed:
        shown = ", ".join(changed[:3]) + (f" and {len(changed) - 3} more" if len(changed) > 3 else "")
        raise Conflict(
            f"uncommitted changes: {shown}", fix='git add --all && git commit -m "Before the update", or git stash'
        )
