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
    """`path` without the ending of what it is packed with: rows.jsonl of rows.jsonl.gz."""
    return path.with_suffix("") if path.suffix.lower() in PACKED else path


def format_of(path: Path) -> Format:
    """The format that a file's ending names. Raises DataError for an ending that is not known."""
    name = unpacked_name(path)
    try:
        return FORMATS[name.suffix.lower()]
    except KeyError:
        raise DataError(
            f"cannot tell the format of a `{name.suffix or name.name}` file",
            where=Location(path),
            fix=f"give a file that ends in {', '.join(FORMATS)}",
        ) from None
