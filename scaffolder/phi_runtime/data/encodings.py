"""Detect the encoding of a text file, and read text of any encoding as UTF-8."""

from __future__ import annotations

import codecs
import io
import re
from collections.abc import Generator
from functools import partial
from itertools import takewhile
from typing import Any

UTF8, WINDOWS = "utf-8", "cp1252"
FIX = "save the file as UTF-8, or set `encoding` (`new --encoding`), such as cp1251 or gbk"

# UTF-32 first: its mark starts with that of UTF-16.
_MARKS = (
    (codecs.BOM_UTF8, UTF8),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_HIGH = bytes(range(128, 256))
_CHUNK = 2**20
_CHUNKS = 16  # that are searched for a byte that is not ASCII
_WORD = re.compile(r"[^\W\d_]{2,}")
# Bytes that Windows-1252 does not define, and `ÿ`, which is far more often a broken byte.
_NOT_WINDOWS = re.compile(rb"[\x81\x8d\x8f\x90\x9d\xff]")
_CAPITAL_IN_WORD = re.compile(r"[a-zß-ÿ][À-ÖØ-ÞŠŒŽŸ][a-zß-ÿ]")
_SYMBOL_IN_WORD = re.compile(r"[^\W\d_](?:[¹²³¼½¾ªº]|[^\w\s\x00-\x7f’´·\xad–—])[^\W\d_]")


def detect_encoding(stream: io.BufferedReader) -> str:
    """Return the encoding of a text by its first bytes: that of its byte order mark, UTF-8, UTF-16 or Windows-1252.

    Windows-1252 is returned for bytes that are not UTF-8 and that look like a Western language in it; the first megabyte
    that is not ASCII decides. Any other text is UTF-8, whose reader reports its bad lines.
    """
    for chunk in takewhile(bool, (stream.read(_CHUNK) for _ in range(_CHUNKS))):
        for mark, name in _MARKS:
            if chunk.startswith(mark):
                return name
        if b"\0" in chunk and (name := _utf16(chunk[:4096])):
            return name
        whole = chunk.rstrip(_HIGH) if len(chunk) == _CHUNK else chunk  # its end may cut a character
        if not whole.isascii():
            return _utf8_or_windows(whole)
    return UTF8


def _utf16(start: bytes) -> str:
    """Return the UTF-16 that a text without a mark is in, by the zeros of its ASCII characters; empty for neither."""
    even, odd = start[::2].count(0), start[1::2].count(0)
    enough = len(start) // 2 * 0.4
    if odd > enough and even < odd / 20:
        return "utf-16-le"
    return "utf-16-be" if even > enough and odd < even / 20 else ""


def _utf8_or_windows(chunk: bytes) -> str:
    text = chunk.decode(UTF8, "surrogateescape")
    invalid = sum(1 for c in text if "\udc80" <= c <= "\udcff")
    valid = sum(1 for c in text if c > "\x7f") - invalid
    if invalid <= 20 * valid or _NOT_WINDOWS.search(chunk) or b"\0" in chunk:
        return UTF8
    text = chunk.decode(WINDOWS)
    words = [word for word in _WORD.findall(text) if not word.isascii()]
    foreign = sum(1 for word in words if not any(c.isascii() for c in word))
    if foreign > len(words) / 5 or _SYMBOL_IN_WORD.search(text) or _CAPITAL_IN_WORD.search(text):
        return UTF8
    return WINDOWS


class ByteStream(io.RawIOBase):
    """A stream of the bytes that a generator yields; closing the stream closes it."""

    def __init__(self, pieces: Generator[bytes]) -> None:
        self.pieces, self.left = pieces, memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self.left:
            if (piece := next(self.pieces, None)) is None:
                return 0
            self.left = memoryview(piece)
        size = min(len(buffer), len(self.left))
        buffer[:size], self.left = self.left[:size], self.left[size:]
        return size

    def close(self) -> None:
        self.pieces.close()
        super().close()


def recoded(stream: io.BufferedReader, encoding: str) -> Generator[bytes]:
    """Yield a text of any encoding as UTF-8. What cannot be decoded becomes a byte that is not UTF-8 either."""
    name = codecs.lookup(encoding).name
    marks = [mark for mark, of in _MARKS if of == name]
    if name in ("utf-16", "utf-32") and not any(map(stream.peek(4).startswith, marks)):
        encoding = f"{name}-le"  # as Python reads a complete text; its incremental decoder requires a mark
    for text in codecs.iterdecode(iter(partial(stream.read, 2**17), b""), encoding, _INVALID):
        yield text.encode(UTF8, "surrogateescape")


_INVALID = "phi_invalid"


def _invalid(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return "\udcff", error.end


codecs.register_error(_INVALID, _invalid)
