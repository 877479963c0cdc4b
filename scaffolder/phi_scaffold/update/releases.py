"""The templates of earlier releases, one archive each. `tools/release.py` adds one at every release."""

from __future__ import annotations

import tarfile
from pathlib import Path

FOLDER = Path(__file__).parent / "releases"
SUFFIX = ".tar.xz"
UNTOUCHED = ("datasets", "gen-model", "model-cache")
"""Folders of a project that `update` leaves alone; the archives do not have their templates."""


def released_versions() -> list[str]:
    """Return the versions whose template is known."""
    return sorted(path.name.removesuffix(SUFFIX) for path in FOLDER.glob(f"*{SUFFIX}"))


def unpack(version: str, folder: Path) -> Path:
    """Write the template of a released version to `folder`, and return it."""
    with tarfile.open(FOLDER / f"{version}{SUFFIX}") as archive:
        archive.extractall(folder, filter="data")
    return folder
