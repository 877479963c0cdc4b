"""Read data files as decompressed bytes and as numbered lines."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from phi_runtime.core.errors import DataError, Location, MissingDependency

LIMIT_BYTES = 16 * 2**20
"""Longest row that is read. A longer one is not training text but a mistake, and would fill the memory."""

_BOM = b"\xef\xbb\xbf"
_UTF16 = (b"\xff\xfe", b"\xfe\xff")


class _Zstd(io.RawIOBase):
    """The bytes of a .zst file. zstandard's own reader accepts a truncated file silently (seen in 0.25)."""

    def __init__(self, file: Any, zstandard: Any) -> None:
        self.decompressor, self.error = zstandard.ZstdDecompressor(), zstandard.ZstdError
        self.file = file
        self.frame: Any = None
        self.compressed, self.output = b"", memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self.output:
            self.compressed = self.compressed or self.file.read(2**14)
            if not self.compressed:
                if self.frame:
                    raise EOFError("it is truncated")
                return 0
            self.frame = self.frame or self.decompressor.decompressobj()
            try:
                self.output = memoryview(self.frame.decompress(self.compressed))
            except self.error as e:
                raise EOFError(str(e)) from None
            ended = self.frame.eof
            self.compressed, self.frame = (self.frame.unused_data, None) if ended else (b"", self.frame)
        size = min(len(buffer), len(self.output))
        buffer[:size], self.output = self.output[:size], self.output[size:]
        return size

    def close(self) -> None:
        self.file.close()
        super().close()


def _zstd(path: Path) -> Any:
    try:
        import zstandard
    except ImportError:
        fix = f"run `pip install zstandard` in the project's .venv, or decompress {path.name}"
        raise MissingDependency(
            "reading a .zst file needs the package zstandard", where=Location(path), fix=fix
        ) from None
    return _Zstd(path.open("rb"), zstandard)


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
def opened(path: Path) -> Iterator[io.BufferedReader]:
    """Open a data file for reading decompressed bytes, after its UTF-8 byte order mark if it has one.

    Raises:
        DataError: the file is missing, a folder, unreadable, empty, in UTF-16, or its compression is corrupt.
    """
    opener, errors = _opener(path)
    try:
        with opener(path) as raw:
            stream = io.BufferedReader(raw, 2**18)
            start = stream.peek(3)
            if start[:2] in _UTF16:
                raise DataError("the file is in UTF-16", where=Location(path), fix="save the file as UTF-8")
            if start[:3] == _BOM:
                stream.read(3)
            if not start:
                raise empty_file(path)
            yield stream
    except FileNotFoundError:
        raise missing_file(path) from None
    except IsADirectoryError:
        raise DataError("this is a folder, not a data file", where=Location(path), fix="name a file") from None
    except errors as e:
        raise _corrupt(path, e) from None
    except OSError as e:
        if e.errno is None:  # gzip and bz2 raise it for corrupt data
            raise _corrupt(path, e) from None
        raise DataError(f"the data file cannot be read: {e.strerror}", where=Location(path)) from None


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
