"""Data file formats, by file name suffix."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from phi_runtime.core.errors import DataError, Location

Format = Literal["json", "csv", "xlsx", "parquet", "text"]
FORMATS: dict[str, Format] = {
    ".jsonl": "json",
    ".ndjson": "json",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "csv",
    ".xlsx": "xlsx",
    ".xlsm": "xlsx",
    ".parquet": "parquet",
    ".txt": "text",
}
_AS_TABLE, _AS_TEXT = "save it as .xlsx or .csv", "copy its text into a .csv or .txt file"
_OTHERS = {  # formats that are not read, and the way to one that is
    **dict.fromkeys((".xls", ".xlsb", ".ods", ".numbers"), _AS_TABLE),
    **dict.fromkeys((".doc", ".docx", ".odt", ".rtf", ".pdf", ".html", ".htm", ".md", ".epub"), _AS_TEXT),
    **dict.fromkeys((".zip", ".tar", ".tgz", ".rar", ".7z"), "extract it"),
    **dict.fromkeys((".db", ".sqlite", ".sqlite3", ".sql", ".accdb", ".mdb"), "export its table as .csv"),
    **dict.fromkeys((".pkl", ".pickle", ".feather", ".arrow", ".h5", ".npy", ".orc"), "save it as .parquet or .csv"),
    **dict.fromkeys((".xml", ".yaml", ".yml"), "convert it to .jsonl or .csv"),
}
FORMATS_OF_KEY: dict[str, tuple[Format, ...]] = {
    "sep": ("csv",),
    "skipinitialspace": ("csv",),
    "encoding": ("json", "csv", "text"),
    "header": ("csv", "xlsx"),
    "names": ("csv", "xlsx"),
    "sheet": ("xlsx",),
    "sample_by": ("text",),
    "field": ("json",),
}
"""Keys of `load_dataset_config` that only some formats have."""

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
            fix=_OTHERS.get(name.suffix.lower()) or f"use a file that ends in {', '.join(FORMATS)}",
        )
    return known
