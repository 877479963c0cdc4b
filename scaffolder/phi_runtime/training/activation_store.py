"""Activations of rows in a file, to compute them once for all epochs, resumed runs and trials with the same rows.

A store is a folder with two files: `states.bin`, the activations of all rows one after the other, and `sums.bin`, a checksum
for each row that is there. Rows may be written by several processes at a time, which write the same bytes; a row that was
written in part has another checksum and is computed again.
"""

from __future__ import annotations

import os
import shutil
import zlib
from collections.abc import Iterable
from hashlib import blake2b
from pathlib import Path

import numpy as np

_SUM = np.dtype("<u8")


class ActivationStore:
    """Activations of rows, by their tokens.

    Attributes:
        rows: Rows that it has space for.
        size_bytes: Size of the activations of all of them.
    """

    def __init__(self, folder: Path, rows: Iterable[np.ndarray], token_bytes: int, limit_bytes: int) -> None:
        """Open or create the store of `rows`, or of as many of them, in their order, as `limit_bytes` has space for.

        Args:
            folder: Folder of the store; the rows are part of its name.
            rows: Token ids of each row, (T,).
            token_bytes: Size of the activations of a token.
            limit_bytes: Largest size of all activations.
        """
        self._token_bytes = token_bytes
        self._places: dict[bytes, tuple[int, int]] = {}  # number of a row, and its offset in the file
        self.size_bytes = 0
        for ids in rows:
            size = len(ids) * token_bytes
            if self.size_bytes + size > limit_bytes:
                break
            if self._places.setdefault(_key(ids), (len(self._places), self.size_bytes))[1] == self.size_bytes:
                self.size_bytes += size
        self.rows = len(self._places)
        folder = folder.with_name(f"{folder.name}-{_names(self._places)}")
        folder.mkdir(parents=True, exist_ok=True)
        self._states, self._sums = folder / "states.bin", folder / "sums.bin"
        for file, size in ((self._states, self.size_bytes), (self._sums, self.rows * _SUM.itemsize)):
            with file.open("ab") as stream:
                stream.truncate(size)  # parts that were never written take no space on most disks
        self._used = folder / "used"
        self._used.touch()

    def read(self, ids: np.ndarray) -> bytes | None:
        """Return the activations of the row `ids` (T,); None if they are not there. Raises OSError if the store was removed."""
        place = self._places.get(_key(ids))
        if place is None:
            return None
        number, offset = place
        os.utime(self._used)
        expected = _read(self._sums, number * _SUM.itemsize, _SUM.itemsize)
        if not any(expected):
            return None
        states = _read(self._states, offset, len(ids) * self._token_bytes)
        return states if _sum(states) == expected else None

    def write(self, ids: np.ndarray, states: bytes) -> None:
        """Keep the activations of the row `ids` (T,), if there is space for them.

        Raises:
            OSError: The disk is full, or the store was removed.
        """
        place = self._places.get(_key(ids))
        if place is None:
            return
        number, offset = place
        _write(self._states, offset, states)
        _write(self._sums, number * _SUM.itemsize, _sum(states))


def remove_older(root: Path, limit_bytes: int) -> None:
    """Remove the stores in `root` that were not used for the longest time, until the others take at most `limit_bytes`."""
    stores = [folder for folder in root.glob("*") if (folder / "used").is_file()]
    total = 0
    for folder in sorted(stores, key=lambda folder: -(folder / "used").stat().st_mtime_ns):
        total += (folder / "states.bin").stat().st_size
        if total > limit_bytes:
            shutil.rmtree(folder, ignore_errors=True)


def _key(ids: np.ndarray) -> bytes:
    return blake2b(np.ascontiguousarray(ids, dtype="<i8").tobytes(), digest_size=16).digest()


def _names(keys: Iterable[bytes]) -> str:
    digest = blake2b(digest_size=8)
    for key in keys:
        digest.update(key)
    return digest.hexdigest()


def _sum(states: bytes) -> bytes:
    return np.array([zlib.crc32(states) + 1], _SUM).tobytes()  # 0: the row is missing


def _read(file: Path, offset: int, size: int) -> bytes:
    with file.open("rb", buffering=0) as stream:
        stream.seek(offset)
        return stream.read(size)


def _write(file: Path, offset: int, content: bytes) -> None:
    with file.open("r+b") as stream:
        stream.seek(offset)
        stream.write(content)
