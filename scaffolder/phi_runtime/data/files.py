"""Read data files as decompressed bytes and as numbered lines."""

from __future__ import annotations

import codecs
import io
import stat
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from phi_runtime.core.errors import DataError, Location, MissingDependency
from phi_runtime.data.encodings import UTF8, ByteStream, detect_encoding, recoded

LIMIT_BYTES = 16 * 2**20
"""Longest row that is read. A longer one is not training text but a mistake, and would fill the memory."""

_BOM = codecs.BOM_UTF8

# First bytes of files that are no text, though their names say so.
_BINARY = {
    b"PK\x03\x04": ("an Excel file or a ZIP archive", "name it .xlsx if it is a workbook, or extract it"),
    b"\xd0\xcf\x11\xe0": ("an old or encrypted Excel file", "save it as .xlsx or .csv"),
    b"%PDF": ("a PDF file", "copy its text into a .csv or .txt file"),
    b"PAR1": ("a Parquet file", "name it .parquet"),
    b"\x1f\x8b": ("compressed with gzip", "add .gz to its name"),
    b"BZh": ("compressed with bzip2", "add .bz2 to its name"),
    b"\xfd7zXZ": ("compressed with xz", "add .xz to its name"),
    b"\x28\xb5\x2f\xfd": ("compressed with zstd", "add .zst to its name"),
    b"SQLite format 3": ("a SQLite database", "export its table as .csv"),
    b"<!DOCTYPE html": ("a web page", "download the data itself"),
    b"<!doctype html": ("a web page", "download the data itself"),
    b"<html": ("a web page", "download the data itself"),
}


def _zstd(path: Path) -> ByteStream:
    try:
        import zstandard
    except ImportError:
        fix = f"run `pip install zstandard` in the project's .venv, or decompress {path.name}"
        raise MissingDependency(
            "reading a .zst file needs the package zstandard", where=Location(path), fix=fix
        ) from None
    return ByteStream(_unpacked_zstd(path, zstandard))


def _unpacked_zstd(path: Path, zstandard: Any) -> Generator[bytes]:
    """Yield the bytes of a .zst file. zstandard's own reader accepts a truncated file silently (seen in 0.25)."""
    decompressor, frame = zstandard.ZstdDecompressor(), None
    with path.open("rb") as file:
        while packed := file.read(2**14):
            while packed:
                frame = frame or decompressor.decompressobj()
                try:
                    piece = frame.decompress(packed)
                except zstandard.ZstdError as e:
                    raise EOFError(str(e)) from None
                yield piece
                packed, frame = (frame.unused_data, None) if frame.eof else (b"", frame)
    if frame:
        raise EOFError("it is truncated")


def _opener(path: Path) -> tuple[Callable[[Path], Any], tuple[type[Exception], ...]]:
    """Return the function that opens the file, and what it raises for corrupt data in addition to OSError."""
    match path.suffix.lower():
        case ".gz":
            import gzip
            import zlib

            return gzip.open, (EOFError, zlib.error)
        case ".bz2":
            import bz2

            return bz2.open, (EOFError,)
        case ".xz":
            import lzma

            return lzma.open, (EOFError, lzma.LZMAError)
        case ".zst":
            return _zstd, (EOFError,)
    return lambda plain: plain.open("rb"), ()


@contextmanager
def opened(path: Path, encoding: str | None = None) -> Iterator[io.BufferedReader]:
    """Open a text file for reading it decompressed and in UTF-8, after its byte order mark if it has one.

    Raises:
        DataError: the file is missing, a folder, unreadable, empty or no text, or its compression is corrupt.
    """
    encoding = encoding or encoding_of(path)
    with _decompressed(path) as stream:
        text: Any = stream if encoding == UTF8 else io.BufferedReader(ByteStream(recoded(stream, encoding)), 2**18)
        if text.peek(3)[:3] == _BOM:
            text.read(3)
        yield text


def encoding_of(path: Path) -> str:
    """Return the encoding of a text file, as `detect_encoding` does. Raises DataError as `opened` does."""
    with _decompressed(path) as stream:
        return detect_encoding(stream)


def head(path: Path, encoding: str, size: int = 2**18) -> tuple[str, bool]:
    """Return the first `size` bytes of a text file, and True if that is all of it. Raises DataError as `opened` does."""
    with opened(path, encoding) as stream:
        start = stream.read(size)
        return start.decode(UTF8, "surrogateescape"), not stream.peek(1)


@contextmanager
def _decompressed(path: Path) -> Iterator[io.BufferedReader]:
    require_file(path)
    opener, errors = _opener(path)
    try:
        with opener(path) as raw:
            stream = io.BufferedReader(raw, 2**18)
            start = stream.peek(16)
            if not start:
                raise empty_file(path)
            refuse_binary(path, start)
            yield stream
    except FileNotFoundError:
        raise missing_file(path) from None
    except errors as e:
        raise _corrupt(path, e) from None
    except OSError as e:
        if e.errno is None:  # gzip and bz2 raise it for corrupt data
            raise _corrupt(path, e) from None
        raise DataError(f"the data file cannot be read: {e.strerror}", where=Location(path)) from None


def require_file(path: Path) -> None:
    """Raise DataError for a folder, and for a pipe or a device, whose reading may never end."""
    try:
        mode = path.stat().st_mode
    except OSError:  # reported when it is opened
        return
    if stat.S_ISDIR(mode):
        raise DataError("this is a folder, not a data file", where=Location(path), fix="name a file")
    if not stat.S_ISREG(mode):
        raise DataError("this is a pipe or a device, not a data file", where=Location(path), fix="write it to a file")


def refuse_binary(path: Path, start: bytes) -> None:
    """Raise DataError if a file starts as one that is not read under its name."""
    for magic, (what, fix) in _BINARY.items():
        if start.startswith(magic):
            raise DataError(f"the file is {what}", where=Location(path), fix=fix)


def lines(stream: io.BufferedReader) -> Iterator[tuple[int, bytes | None]]:
    """Yield the non-blank lines with their numbers from 1; None for a line of more than LIMIT_BYTES."""
    number = 0
    while line := stream.readline(LIMIT_BYTES + 1):
        number += 1
        if len(line) > LIMIT_BYTES:
            while len(line) > LIMIT_BYTES and not line.endswith(b"\n"):
                line = stream.readline(LIMIT_BYTES + 1)
            yield number, None
        elif not line.isspace():
            yield number, line


def first_byte(stream: io.BufferedReader) -> bytes:
    """Return the first byte that is not white space, without consuming it; empty at the end."""
    while start := stream.peek(1):
        text = start.lstrip()
        if text:
            return text[:1]
        stream.read(len(start))
    return b""


def missing_file(path: Path) -> DataError:
    """Return the error for a data file that does not exist."""
    return DataError("the data file does not exist", where=Location(path), fix="check the path")


def no_rows(path: Path) -> DataError:
    """Return the error for a data file without a row."""
    return DataError("the data file has no rows", where=Location(path), fix="add at least one row")


def empty_file(path: Path) -> DataError:
    """Return the error for a data file without content."""
    return DataError("the data file is empty", where=Location(path), fix="add at least one row")


def _corrupt(path: Path, error: Exception) -> DataError:
    return DataError(
        f"the compressed file is corrupt ({error})", where=Location(path), fix="download or compress it again"
    )
