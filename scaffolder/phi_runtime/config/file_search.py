"""Search of files by pattern, with the results of Python's `glob`, but bounded: a config from elsewhere may name a whole disk."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Container, Iterator
from fnmatch import translate
from functools import cache
from pathlib import Path

from phi_runtime.core.errors import ConfigError

MOST_FILES = 100_000  # below a folder that is searched

_Entries = Callable[[str], list[os.DirEntry[str]]]


def is_pattern(path: Path | str) -> bool:
    """Return True for a path with a wildcard."""
    return any(c in str(path) for c in "*?[")


def exists(path: Path) -> bool:
    """Return True if there is something at `path`, False if this user may not look it up."""
    return os.path.exists(path)  # noqa: PTH110


def is_file(path: Path) -> bool:
    """Return True if `path` is a file. Raises PermissionError, which pathlib does not since Python 3.14."""
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except PermissionError:
        raise
    except (OSError, ValueError):
        return False


def matches(pattern: Path) -> Iterator[Path]:
    """Yield the matches of a pattern without hidden files, each once; `**` enters no folder again that it is in.

    A part that exists literally is no pattern, as in `data [1]/*.jsonl`.

    Raises:
        ConfigError: A pattern with `**`, or with more than two other wildcards, would search too many files.
    """
    parts = pattern.parts
    fixed = next((i for i in range(1, len(parts)) if not exists(Path(*parts[: i + 1]))), len(parts))
    folder, wild = Path(*parts[:fixed]), parts[fixed:]
    entries = _bounded(folder) if "**" in wild or sum(map(is_pattern, wild)) > 2 else _entries
    paths = iter([str(folder)])
    for part in (*wild, "*") if wild[-1:] == ("**",) else wild:
        paths = _subfolders(paths, entries) if part == "**" else _named(paths, part, entries)
    return map(Path, paths)


def paths_below(folder: Path, skipped: Container[str] = ()) -> list[Path]:
    """Return all that is below a folder and is no folder, sorted.

    Args:
        folder: The folder.
        skipped: Names of files, and of folders that are not entered.

    Raises:
        ConfigError: The search would take long, as one of a complete disk.
    """
    paths, count = [], 0
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name not in skipped]
        count += len(folders) + len(names)
        _require_few(count, folder)
        paths += [Path(place, name) for name in names if name not in skipped]
    return sorted(paths)


def _bounded(folder: Path) -> _Entries:
    """Return `_entries` with a limit on the files that a search below `folder` sees."""
    count = 0

    @cache  # `**` and the part after it read the same folders
    def entries(path: str) -> list[os.DirEntry[str]]:
        nonlocal count
        content = _entries(path)
        count += len(content)
        _require_few(count, folder)
        return content

    return entries


def _require_few(count: int, folder: Path) -> None:
    if count > MOST_FILES:
        what = f"more than {MOST_FILES:,} files are below {folder}"
        raise ConfigError(what, fix="name the folder that holds the files")


def _entries(path: str) -> list[os.DirEntry[str]]:
    """Return the content of a folder; nothing if it is none or cannot be read."""
    try:
        with os.scandir(path) as content:
            return list(content)
    except OSError:
        return []


def _named(folders: Iterator[str], part: str, entries: _Entries) -> Iterator[str]:
    """Yield the paths in `folders` whose name matches one part of a pattern."""
    if not is_pattern(part):
        yield from (path for folder in folders if os.path.lexists(path := str(Path(folder, part))))
        return
    match, hidden = re.compile(translate(os.path.normcase(part))).match, part.startswith(".")
    for folder in folders:
        for entry in entries(folder):
            if (hidden or not entry.name.startswith(".")) and match(os.path.normcase(entry.name)):
                yield entry.path


def _subfolders(folders: Iterator[str], entries: _Entries) -> Iterator[str]:
    """Yield `folders` and all folders below them, each once, also through links that do not lead back."""
    seen: set[str] = set()
    for top in folders:
        pending: list[tuple[str, frozenset[tuple[int, int]]]] = [(top, frozenset())]
        while pending:
            path, above = pending.pop()
            identity = _identity(path)
            if path in seen or identity is None or identity in above:
                continue
            seen.add(path)
            yield path
            below = above | {identity}
            pending += [(e.path, below) for e in entries(path) if not e.name.startswith(".") and _is_folder(e)]


def _identity(path: str) -> tuple[int, int] | None:
    try:
        state = Path(path).stat()
    except OSError:
        return None
    return state.st_dev, state.st_ino


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False
