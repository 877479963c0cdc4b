"""phi-scaffold itself as one archive, for machines that do not have it: the packages that run here, however they are installed."""

from __future__ import annotations

import fnmatch
import io
import lzma
import re
import tarfile
from collections.abc import Iterable
from pathlib import Path

from phi_runtime.remote.snapshot import SnapshotFile

ARCHIVE = "phi-scaffold.tar.xz"
FOLDER = ".phi-scaffold"
"""The folder of a job that the archive is unpacked in."""
UNPACK = ("python", "-m", "tarfile", "-e", ARCHIVE, FOLDER)
# Nothing that `run` imports in a job: other commands, and what submits jobs.
_NOT_RUN = (
    "*/__pycache__/*",
    *(f"phi_scaffold/{name}/*" for name in ("_template", "chat", "doctor", "mcp", "new", "remote", "update")),
    *(f"phi_scaffold/show/{name}*" for name in ("clean", "data", "doctor", "models", "new", "optimize")),
    *(f"phi_scaffold/show/{name}*" for name in ("rating", "remote", "runs", "seeds", "sweep", "update")),
    "phi_scaffold/olive/[ab]*",
    *(f"phi_runtime/config/{name}" for name in ("dialects/json_schema*", "dialects/migrate.py", "reference.py")),
    *(f"phi_runtime/config/reading/{name}.py" for name in ("comments", "write")),
    "phi_runtime/pipeline/conversation.py",
    "phi_runtime/remote/[!_w]*",
    *(f"phi_runtime/report/{name}*" for name in ("judge", "rating_files", "reproduction")),
    "phi_runtime/search/*",
    "phi_runtime/serving/*",
)
_COMMANDS = "phi_scaffold/cli/"
_USED_COMMANDS = frozenset(
    f"{_COMMANDS}{name}.py"
    for name in (
        "__init__",
        "allocator",
        "app",
        "completion",
        "failure",
        "group",
        "help_page",
        "options",
        "other_names",
        "run",
    )
)


def package(packages: Iterable[Path], version: str, *, without: Iterable[str] = ()) -> SnapshotFile:
    """Return an archive of the package folders `packages`: the same bytes for the same files, on every machine.

    Args:
        packages: Folders of phi_runtime and phi_scaffold.
        version: Version of phi-scaffold.
        without: Names of data files that the job does not read.
    """
    skipped = re.compile(
        "|".join(fnmatch.translate(pattern) for pattern in (*_NOT_RUN, *(f"*/{name}" for name in without)))
    )
    paths = {
        path.relative_to(folder.parent).as_posix(): path
        for folder in packages
        for path in folder.rglob("*")
        if path.is_file()
    }
    files = {
        name: path.read_bytes()
        for name, path in paths.items()
        if not skipped.match(name) and (name in _USED_COMMANDS or not name.startswith(_COMMANDS))
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
