"""Data file formats, by file name suffix."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from phi_runtime.core.errors import DataError, Location

Format = Literal["json", "csv", "parquet", "text"]
FORMATS: dict[str, Format] = {
    ".jsonl": "json",
    ".ndjson": "json",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "csv",
    ".parquet": "parquet",
    ".txt": "text",
}
SampleBy = Literal["line", "paragraph", "document"]

PACKED = (".gz", ".bz2", ".xz", ".zst")


def unpacked_name(path: Path) -> Path:
    """Return `path` without its compression suffix: rows.jsonl for rows.jsonl.gz."""
    return path.with_suffix("") if path.suffix.lower() in PACKED else path


def known_format(path: Path) -> Format | None:
    """Return the format of a file by its suffix; None for an unknown suffix."""
    return FORMATS.get(unpacked_name(path).suffix.lower())


def format_of(path: Path) -> Format:
    """Return the format of a file by its suffix. Raises DataError for an unknown suffix."""
    if (known := known_format(path)) is None:
        name = unpacked_name(path)
        raise DataError(
            f"unknown data format `{name.suffix or name.name}`",
            where=Location(path),
            fix=f"use a file that ends in {', '.join(FORMATS)}",
        )
    return known
