"""Output in encodings that lack some of its characters, such as those of pipes on Windows: the nearest ones, else `?`."""

from __future__ import annotations

import codecs
import io
from typing import TextIO

_NEAREST = str.maketrans(
    {
        **dict(zip("▁▂▃▄▅▆▇█", "_.-:=+*#", strict=True)),
        **dict(zip("✓✗×•–—−━─│“”‘’", "+xx*-----|\"\"''", strict=True)),
        **{chr(dots): "*" for dots in range(0x2801, 0x2900)},  # of the spinner
        "→": "->",
        "…": "...",
        "⟦": "[[",
        "⟧": "]]",
        "≤": "<=",
        "≥": ">=",
        "\u00a0": " ",
    }
)


def write_nearest(stream: TextIO | None) -> None:
    """Make `stream` write the nearest characters in place of those that its encoding lacks."""
    codecs.register_error("phi_scaffold.nearest", _nearest)
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="phi_scaffold.nearest")


def _nearest(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    nearest = error.object[error.start : error.end].translate(_NEAREST)
    return nearest.encode(error.encoding, "replace").decode(error.encoding), error.end
