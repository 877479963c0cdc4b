"""Artifacts: folders that are complete or absent. Write to a staging directory, fsync, manifest last, rename.

An artifact is a folder with a `manifest.json`. A folder without a valid manifest does not exist for any stage, so a process that
is killed at any moment leaves at worst a folder that is ignored and, the next time, replaced.

A README.md that the manifest does not list is the card of a model, which is written when its scores are known: it is no part
of the artifact. A card that the user has edited moves to the next artifact in its place.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from phi_runtime.core.errors import OutOfResources
from phi_runtime.core.signed_text import is_edited

MANIFEST = "manifest.json"
CARD = "README.md"
_LARGE_BYTES = 10_000_000  # of a file whose digest is cached on disk
_RACY_NS = 2_000_000_000  # a file this new may change again and keep its modification time
WRITTEN = "written.json"  # the record of `replace_unless_edited`
KEEP = ".gitkeep"  # keeps an empty folder of an emitted project in git; not part of an artifact


@dataclass(frozen=True)
class Manifest:
    """The description of an artifact.

    Attributes:
        key: Digest of all inputs of the stage that wrote it.
        kind: Kind of the content, such as "adapter" or "onnx".
        content: Digest of the content of all files.
        files: Size of each file in bytes, by relative path.
        facts: Results of the stage.
        states: Size, times and inode of each file when it was sealed; a copy has others.
    """

    key: str
    kind: str
    content: str
    files: dict[str, int]
    facts: dict[str, Any]
    states: dict[str, list[int]] = field(default_factory=dict, compare=False)


def digest(value: object) -> str:
    """Return the SHA-256 (hex) of a JSON value; the order of keys does not matter."""
    return hashlib.sha256(
        json.dumps(value, sort_keys=True, ensure_ascii=False, default=str).encode(errors="surrogatepass")
    ).hexdigest()


def file_digest(path: Path) -> str:
    """Return the SHA-256 (hex) of a file's content, cached while its size and times stay the same."""
    state = path.stat()
    if time.time_ns() - _changed_ns(state) < _RACY_NS:  # also after the clock went back
        return _file_digest.__wrapped__(path)
    return _file_digest(path, *_state(state))


@cache
def _file_digest(path: Path, *_: int) -> str:
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def versions(distributions: tuple[str, ...]) -> dict[str, str]:
    """Return the versions of `distributions`, without those that are not installed."""
    found = {}
    for name in distributions:
        with suppress(ImportError):
            found[name] = _version(name)
    return found


@cache
def _version(distribution: str) -> str:
    """Return the version; one that is not installed, an ImportError, is not cached: it may be installed later."""
    import importlib.metadata

    installed = importlib.metadata.distribution(distribution)
    # `version` parses the file as an e-mail with all of its text, the README of the package, which takes ten times as long.
    line = re.search(r"^Version: *(\S+)", installed.read_text("METADATA") or "", re.MULTILINE)
    return line[1] if line else installed.version


def read_manifest(folder: Path) -> Manifest | None:
    """Return the manifest of a complete artifact; None if it is absent or unreadable, or a file is missing or has another size."""
    try:
        raw = read_json(folder / MANIFEST)
        manifest = Manifest(
            raw["key"], raw["kind"], raw["content"], dict(raw["files"]), dict(raw["facts"]), dict(raw.get("states", {}))
        )
        complete = all((folder / name).stat().st_size == size for name, size in manifest.files.items())
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return manifest if complete else None


def current_content(folder: Path, manifest: Manifest) -> str:
    """Return the digest of the content that the artifact in `folder` has now.

    It is that of the manifest, unless files were added or changed since, or the folder was copied. The digests of large files
    are then cached next to it, so that a model is read once and not on each call. States are compared for equality, since a
    clock can go back; the order of times in addition, since a file may change twice within one tick of the clock.
    """
    stats = {path.relative_to(folder).as_posix(): path.stat() for path in _files(folder)}
    if CARD not in manifest.files:
        stats.pop(CARD, None)
    sealed_ns = _changed_ns((folder / MANIFEST).stat())
    unchanged = {name: _state(stat) for name, stat in stats.items() if _changed_ns(stat) < sealed_ns}
    if unchanged.keys() == stats.keys() and unchanged == manifest.states:
        return manifest.content
    cache = folder.with_name(f".{folder.name}.digests.json")
    known = read_object(cache)
    digests, large = {}, {}
    for name, stat in stats.items():
        state, entry = _state(stat), known.get(name, {})
        digests[name] = entry["sha256"] if entry.get("state") == state else file_digest(folder / name)
        if stat.st_size >= _LARGE_BYTES:
            large[name] = {"state": state, "sha256": digests[name]}
    if large != known:
        with suppress(OSError):  # a folder of another user
            write_json(cache, large)
    return digest(list(digests.items()))


def _changed_ns(state: os.stat_result) -> int:
    """Return the time of the last change; that of the inode also shows a file that was moved here with its old time."""
    return max(state.st_mtime_ns, state.st_ctime_ns)


def _state(state: os.stat_result) -> list[int]:
    return [state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino]


def _files(folder: Path) -> Iterable[Path]:
    return sorted(p for p in folder.rglob("*") if p.is_file() and p.name not in (MANIFEST, KEEP))


def is_deleted(folder: Path) -> bool:
    """Return True if the artifact in `folder`, or a file of it, is gone."""
    try:
        return not all((folder / name).exists() for name in read_json(folder / MANIFEST)["files"])
    except (OSError, ValueError, KeyError, TypeError):
        return not any(path != folder / CARD for path in _files(folder))


def folder_bytes(folder: Path) -> int:
    """Return the size of all files under `folder` in bytes, without that of a card."""
    return sum(p.stat().st_size for p in _files(folder) if p != folder / CARD)


def _fsync(path: Path) -> None:
    flags = os.O_RDONLY
    if os.name == "nt":  # Windows cannot open a folder, and flushes a file only through a writable handle
        if path.is_dir():
            return
        flags = os.O_RDWR
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def partial_of(path: Path) -> Path:
    """Return the name next to `path` under which it is written."""
    return path.with_name(f".{path.name}.partial")


@contextmanager
def staged(path: Path) -> Iterator[Path]:
    """Yield a free name next to `path` for a new file, which then becomes `path`; after an error it is removed.

    A reader of `path` sees the old file or the new one, never a part.
    """
    partial = partial_of(path)
    partial.unlink(missing_ok=True)  # it may be a link, which is not followed
    try:
        yield partial
        _fsync(partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write `text` to a `staged` file. No link is followed, neither one at `path` nor one under the name of the new file."""
    with staged(path) as partial, partial.open("x", encoding="utf-8", newline="\n") as file:
        file.write(text)


def write_json(path: Path, value: object) -> None:
    """Write `value` as JSON, as `write_text` does."""
    text = json.dumps(value, indent=2, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:  # it has the name of a file that is not UTF-8, which JSON can hold as escapes
        text = json.dumps(value, indent=2)
    write_text(path, text + "\n")


def read_json(path: Path) -> Any:
    """Return the value of a JSON file. Raises OSError, ValueError."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except RecursionError:
        raise ValueError(f"{path.name} is nested too deeply") from None


def read_object(path: Path) -> dict[str, Any]:
    """Return the object of a JSON file; empty if the file is missing or unreadable, or has another value."""
    try:
        value = read_json(path)
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """Return the objects of a JSON Lines file; none if it is missing. A line that was cut off is skipped."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, ValueError):
        return []
    values = []
    for line in lines:
        with suppress(ValueError, RecursionError):
            values.append(json.loads(line))
    return [value for value in values if isinstance(value, dict)]


def free_name(path: Path) -> Path:
    """Return a free name next to `path` for a backup of it: `name.bak`, `name.bak1` and so on."""
    names = (path.with_name(f"{path.name}.bak{n or ''}") for n in range(10_000))
    return next(n for n in names if not n.exists() and not n.is_symlink())


def replace_unless_edited(path: Path, text: str, record: Path) -> Path | None:
    """Write `text` to `path`, and keep a file that the user edited.

    Args:
        path: The file.
        text: Its new content.
        record: File that remembers what was written last: a digest by the name of the file.

    Returns:
        The name under which the edited file was kept; None if it was not edited.
    """
    known = read_object(record)
    current = path.read_text(encoding="utf-8") if path.is_file() else text
    backup = None
    if current != text and digest(current) != known.get(path.name):
        backup = free_name(path)
        path.replace(backup)
    if current != text or not path.is_file():
        write_text(path, text)
    if known.get(path.name) != digest(text):
        write_json(record, {**known, path.name: digest(text)})
    return backup


def seal(folder: Path, *, key: str, kind: str, facts: dict[str, Any]) -> Manifest:
    """Turn `folder` into an artifact: sync every file to the disk, then write the manifest."""
    names = [p.relative_to(folder).as_posix() for p in _files(folder)]
    for name in names:
        _fsync(folder / name)
    states = {name: _state((folder / name).stat()) for name in names}
    content = digest([(name, file_digest(folder / name)) for name in names])
    manifest = Manifest(key, kind, content, {name: state[0] for name, state in states.items()}, facts, states)
    write_json(folder / MANIFEST, asdict(manifest))
    _fsync(folder)
    return manifest


def put_in_place(folder: Path, target: Path) -> None:
    """Rename the sealed `folder` to `target`; a previous `target` is renamed first and removed last, but for an edited card."""
    old = _previous(target)
    if old.is_dir() and not target.exists():  # a process was killed between the two renames
        old.replace(target)
    discard_previous(target)
    if (target / KEEP).exists():
        (folder / KEEP).touch()
    previous = read_manifest(target)
    has_card = previous is None or CARD not in previous.files
    if has_card and is_edited(target / CARD) and not (folder / CARD).exists():
        shutil.copyfile(target / CARD, folder / CARD)
    if target.exists():
        target.replace(old)
    folder.replace(target)
    _fsync(target.parent)
    discard_previous(target)


def discard_previous(target: Path) -> None:
    """Remove the previous artifact of `target`, which is still there if `put_in_place` was killed."""
    shutil.rmtree(_previous(target), ignore_errors=True)


def delete_folder(folder: Path) -> None:
    """Delete a folder, which under its name is complete or absent at any time, and what a killed deletion of it left.

    Raises:
        OSError: A file cannot be deleted.
    """
    doomed = folder.with_name(f".deleted-{folder.name}")
    shutil.rmtree(doomed, ignore_errors=True)
    if folder.exists():
        folder.rename(doomed)
        shutil.rmtree(doomed)


def _previous(target: Path) -> Path:
    return target.with_name(f".{target.name}.old")


def require_free_space(folder: Path, needed_bytes: int, purpose: str) -> None:
    """Check the free space of the disk that holds `folder`, which must exist.

    Raises:
        OutOfResources: fewer than `needed_bytes` are free.
    """
    free_bytes = shutil.disk_usage(folder).free
    if free_bytes < needed_bytes:
        raise OutOfResources(
            f"{purpose} needs {needed_bytes / 1e9:.1f} GB on the disk of {folder}, which has {free_bytes / 1e9:.1f} GB free",
            fix="free some space; `phi-scaffold doctor` shows what takes it",
            resource="disk",
        )
