"""phi-scaffold itself as one archive, for machines that do not have it: the packages that run here, however they are installed."""

from __future__ import annotations

import io
import lzma
import tarfile
from collections.abc import Iterable
from pathlib import Path

from phi_runtime.remote.snapshot import SnapshotFile

ARCHIVE = "phi-scaffold.tar.xz"
FOLDER = ".phi-scaffold"
"""The folder of a job that the archive is unpacked in."""
UNPACK = ("python", "-m", "tarfile", "-e", ARCHIVE, FOLDER)
# Folders that `run` never imports:
_NOT_RUN = frozenset({"__pycache__", "_template", "chat", "new", "search", "serving", "update"})


def package(packages: Iterable[Path], version: str, *, without: Iterable[str] = ()) -> SnapshotFile:
    """Return an archive of the package folders `packages`: the same bytes for the same files, on every machine.

    Args:
        packages: Folders of phi_runtime and phi_scaffold.
        version: Version of phi-scaffold.
        without: Names of data files that the job does not read.
    """
    skipped = _NOT_RUN.union(without)
    files = {
        path.relative_to(folder.parent).as_posix(): path.read_bytes()
        for folder in packages
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not skipped.intersection(path.relative_to(folder).parts)
    }
    metadata = f"Metadata-Version: 2.1\nName: phi-scaffold\nVersion: {version}\n"
    files[f"phi_scaffold-{version}.dist-info/METADATA"] = metadata.encode()
    buffer = io.BytesIO()
    with lzma.open(buffer, "wb", preset=9) as stream, tarfile.open(fileobj=stream, mode="w") as archive:
        for name, content in sorted(files.items()):
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return SnapshotFile(ARCHIVE, content=buffer.getvalue())
