"""Data files as bytes, unpacked, and as lines that are known by their number."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from phi_runtime.core.errors import DataError, Location, MissingDependency

LIMIT_BYTES = 16 * 2**20
"""The longest row that is read. A longer one is no text to train on but a mistake, and would fill the memory."""

_BOM = b"\xef\xbb\xbf"
_UTF16 = (b"\xff\xfe", b"\xfe\xff")


class _Zstd(io.RawIOBase):
    """The bytes of a .zst file. The reader of zstandard itself takes a file that is cut off for one that ends there (0.25)."""

    def __init__(self, file: Any, zstandard: Any) -> None:
        self.decompressor, self.fault = zstandard.ZstdDecompressor(), zstandard.ZstdError
        self.file = file
        self.frame: Any = None
        self.packed, self.held = b"", memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self.held:
            self.packed = self.packed or self.file.read(2**14)
            if not self.packed:
                if self.frame:
                    raise EOFError("it is cut off")
                return 0
            self.frame = self.frame or self.decompressor.decompressobj()
            try:
                self.held = memoryview(self.frame.decompress(self.packed))
            except self.fault as e:
                raise EOFError(str(e)) from None
            ended = self.frame.eof
            self.packed, self.frame = (self.frame.unused_data, None) if ended else (b"", self.frame)
        size = min(len(buffer), len(self.held))
        buffer[:size], self.held = self.held[:size], self.held[size:]
        return size

    def close(self) -> None:
        self.file.close()
        super().close()


def _zstd(path: Path) -> Any:
    try:
        import zstandard
    except ImportError:
        fix = f"run `pip install zstandard` in the project's .venv, or unpack {path.name}"
        raise MissingDependency(
            "reading a .zst file needs the package zstandard", where=Location(path), fix=fix
        ) from None
    return _Zstd(path.open("rb"), zstandard)


def _opener(path: Path) -> tuple[Callable[[Path], Any], tuple[type[Exception], ...]]:
    """What opens the file, and what it raises for damaged data beside OSError; its library is loaded here."""
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
    """The bytes of a data file, unpacked, from behind its UTF-8 byte order mark if it has one.

    Raises DataError for a file that is absent, a folder, unreadable, empty, in UTF-16 or damaged in its packing.
    """
    opener, faults = _opener(path)
    try:
        with opener(path) as raw:
            stream = io.BufferedReader(raw, 2**18)
            start = stream.peek(3)
            if start[:2] in _UTF16:
                raise DataError("the file is in UTF-16", where=Location(path), fix="save the file as UTF-8")
            if start[:3] == _BOM:
                stream.read(3)
            if not start:
                raise _empty(path)
            yield stream
    except FileNotFoundError:
        raise DataError("there is no such data file", where=Location(path), fix="check the path") from None
    except IsADirectoryError:
        raise DataError("this is a folder, not a data file", where=Location(path), fix="give one file") from None
    except faults as e:
        raise _damaged(path, e) from None
    except OSError as e:
        if e.errno is None:  # what gzip and bz2 raise for damaged data
            raise _damaged(path, e) from None
        raise DataError(f"cannot be read: {e.strerror}", where=Location(path)) from None


def lines(stream: io.BufferedReader) -> Iterator[tuple[int, bytes | None]]:
    """The lines that hold something, each with its number from 1; None in place of one of more than LIMIT_BYTES."""
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
    """The first byte that is no white space, still to be read; empty where there is none."""
    while start := stream.peek(1):
        found = start.lstrip()
        if found:
            return found[:1]
        stream.read(len(start))
    return b""


def _empty(path: Path) -> DataError:
    return DataError("the data file is empty", where=Location(path), fix="put at least one row into it")


def _damaged(path: Path, error: Exception) -> DataError:
    return DataError(f"the packed file is damaged ({error})", where=Location(path), fix="get or pack the file anew")
