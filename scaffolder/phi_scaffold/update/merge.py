"""Three-way merge of a project with two renderings of its template: the one it was created from, and the present one."""

from __future__ import annotations

import subprocess
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

from phi_runtime.core.errors import Conflict
from phi_scaffold.update.releases import UNTOUCHED

Kind = Literal["updated", "merged", "conflict", "added", "deleted", "kept"]
_YOURS = "yours"
_MOST_CONFLICTS = 127  # `git merge-file` counts to this; larger exit codes are errors


@dataclass(frozen=True)
class FileChange:
    """The change of one file.

    Attributes:
        path: The file, relative to the project.
        kind: `updated`: was as generated; `merged`: has the edits of both; `conflict`: has markers, or is not text; `added`;
            `deleted`; `kept`: the template changed or dropped it, but the user's file (or its absence) stays.
        before: Content in the project; None if there is no such file.
        after: Content after the update; None to delete it.
        lines: Lines of the conflict markers that begin a conflict, from 1.
    """

    path: str
    kind: Kind
    before: bytes | None
    after: bytes | None
    lines: tuple[int, ...] = ()

    @property
    def writes(self) -> bool:
        return self.before != self.after


def changes(
    old: Path,
    new: Path,
    project: Path,
    *,
    versions: tuple[str, str],
    replaced: Collection[str],
    ignored: Collection[str],
) -> list[FileChange]:
    """Return the changes that bring a project from its old template to the new one.

    Args:
        old: The rendered template that the project was created from.
        new: The rendered template of this version.
        project: The project.
        versions: Names of both, for conflict markers.
        replaced: Files that no user edits: they become those of `new`.
        ignored: Further top folders to leave alone.

    Raises:
        Conflict: A link is in the way of a file.
    """
    found = []
    for name in sorted({*_files(old), *_files(new)}):
        if name.partition("/")[0] in (*UNTOUCHED, *ignored):
            continue
        current = _current(project, name)
        base = current if name in replaced else _read(old / name)
        if change := _change(name, base, _read(new / name), current, versions):
            found.append(change)
    return found


def _files(root: Path) -> Iterator[str]:
    return (path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())


def _read(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None


def _current(project: Path, name: str) -> bytes | None:
    for path in (project / name, *(project / parent for parent in Path(name).parents if parent.name)):
        if path.is_symlink():
            raise Conflict(
                f"{path} is a link, and files are not written through it", fix="replace it by what it links to"
            )
    if (project / name).is_dir():
        raise Conflict(f"{project / name} is a folder, and the template has a file there", fix="rename it")
    return _read(project / name)


def _change(
    name: str, base: bytes | None, new: bytes | None, current: bytes | None, versions: tuple[str, str]
) -> FileChange | None:
    if new == base or current == new:
        return None
    if current == base:
        kind: Kind = "added" if current is None else "deleted" if new is None else "updated"
        return FileChange(name, kind, current, new)
    if current is None or new is None:  # one side deleted what the other changed
        return FileChange(name, "kept", current, current)
    return _merged(name, base or b"", new, current, versions)


def _merged(name: str, base: bytes, new: bytes, current: bytes, versions: tuple[str, str]) -> FileChange | None:
    crlf = b"\r\n" in current  # an editor or git may have converted the lines
    texts = [text.replace(b"\r\n", b"\n") for text in (current, base, new)]
    if texts[1] == texts[2] or texts[0] == texts[2]:
        return None
    names = (_YOURS, *(f"phi-scaffold {version}" for version in versions))
    with TemporaryDirectory(prefix="phi-scaffold-") as folder:
        command = ["git", "merge-file", "--stdout", "--quiet"]
        for label, text in zip(names, texts, strict=True):
            Path(folder, label).write_bytes(text)
            command += ["-L", label]
        done = subprocess.run([*command, *names], cwd=folder, capture_output=True, check=False)
    if not 0 <= done.returncode <= _MOST_CONFLICTS:  # not text
        return FileChange(name, "conflict", current, current)
    begin = f"<<<<<<< {_YOURS}".encode()
    lines = tuple(n for n, line in enumerate(done.stdout.split(b"\n"), 1) if line == begin) if done.returncode else ()
    after = done.stdout.replace(b"\n", b"\r\n") if crlf else done.stdout
    kind: Kind = "conflict" if lines else "updated" if texts[0] == texts[1] else "merged"
    return FileChange(name, kind, current, after, lines)
