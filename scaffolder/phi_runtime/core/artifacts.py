"""Folders that are either whole or absent: write aside, fsync, manifest last, rename.

An artefact is a folder with a `manifest.json`. What has no valid manifest does not exist for any stage, so a process that is
killed at any moment leaves at worst a folder that is ignored and, the next time, replaced.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from phi_runtime.core.errors import OutOfResources

MANIFEST = "manifest.json"
_RACY_NS = 2_000_000_000  # within it a file may change again and keep its time
KEEP = ".gitkeep"  # the empty file by which git keeps a folder of an emitted project; no part of an artefact


@dataclass(frozen=True)
class Manifest:
    """What an artefact is. `key` names what made it, `content` what is in it; `files` gives each file's size in bytes."""

    key: str
    kind: str
    content: str
    files: dict[str, int]
    facts: dict[str, Any]


def digest(value: object) -> str:
    """SHA-256 (hex) of a JSON-serialisable value; equal values give equal digests whatever the order of their keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False, default=str).encode()).hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 (hex) of a file's content, read once for as long as size and time of the file stay."""
    state = path.stat()
    if time.time_ns() - state.st_mtime_ns < _RACY_NS:
        return _file_digest.__wrapped__(path)
    return _file_digest(path, state.st_size, state.st_mtime_ns)


@cache
def _file_digest(path: Path, *_: int) -> str:
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def versions(distributions: tuple[str, ...]) -> dict[str, str]:
    """The installed versions of those distributions that are installed."""
    import importlib.metadata

    found = {}
    for name in distributions:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest of a whole artefact; None when there is none, it cannot be read, or a file of it is gone or of another size."""
    try:
        raw = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        manifest = Manifest(raw["key"], raw["kind"], raw["content"], dict(raw["files"]), dict(raw["facts"]))
        whole = all((folder / name).stat().st_size == size for name, size in manifest.files.items())
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return manifest if whole else None


def _files(folder: Path) -> Iterable[Path]:
    return sorted(p for p in folder.rglob("*") if p.is_file() and p.name not in (MANIFEST, KEEP))


def folder_bytes(folder: Path) -> int:
    """Size in bytes of all files under `folder`."""
    return sum(p.stat().st_size for p in _files(folder))


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


def write_text(path: Path, text: str) -> None:
    """Writes beside `path`, then renames: a reader sees the old file or the new one, never half of one."""
    aside = path.with_name(f".{path.name}.partial")
    aside.write_text(text, encoding="utf-8", newline="\n")
    _fsync(aside)
    aside.replace(path)


def write_json(path: Path, value: object) -> None:
    """The same, with `value` as JSON."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def free_name(path: Path) -> Path:
    """A name beside `path` for what was there before: its own with .bak, numbered where that is taken."""
    names = (path.with_name(f"{path.name}.bak{n or ''}") for n in range(10_000))
    return next(n for n in names if not n.exists())


def replace_unless_edited(path: Path, text: str, known: str | None) -> Path | None:
    """Writes `text` to `path`. What a user has made of the file since it was written (its digest was `known`) is kept under another
    name, which is returned."""
    there = path.read_text(encoding="utf-8") if path.is_file() else text
    kept = None
    if there != text and digest(there) != known:
        kept = free_name(path)
        path.replace(kept)
    if there != text or not path.is_file():
        write_text(path, text)
    return kept


def seal(folder: Path, *, key: str, kind: str, facts: dict[str, Any]) -> Manifest:
    """Makes `folder` an artefact: syncs every file of it to the disk, then writes its manifest."""
    files = {p.relative_to(folder).as_posix(): p.stat().st_size for p in _files(folder)}
    for name in files:
        _fsync(folder / name)
    content = digest([(name, file_digest(folder / name)) for name in files])
    manifest = Manifest(key, kind, content, files, facts)
    write_json(folder / MANIFEST, asdict(manifest))
    _fsync(folder)
    return manifest


def put_in_place(folder: Path, target: Path) -> None:
    """Renames the sealed `folder` to `target`; an older `target` is moved aside first and removed last."""
    old = target.with_name(f".{target.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if (target / KEEP).exists():
        (folder / KEEP).touch()
    if target.exists():
        target.replace(old)
    folder.replace(target)
    _fsync(target.parent)
    shutil.rmtree(old, ignore_errors=True)


def require_free_space(folder: Path, needed_bytes: int, purpose: str) -> None:
    """Raises OutOfResources when the disk of `folder` (which must exist) has less than `needed_bytes` free."""
    free_bytes = shutil.disk_usage(folder).free
    if free_bytes < needed_bytes:
        raise OutOfResources(
            f"{purpose} needs {needed_bytes / 1e9:.1f} GB on the disk of {folder}, which has {free_bytes / 1e9:.1f} GB free",
            fix="free some space, or see what can go with `phi-scaffold doctor`",
        )
