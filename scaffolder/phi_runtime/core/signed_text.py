"""Generated Markdown that is replaced only while the user has not edited it: its last line holds a digest of the rest."""

from __future__ import annotations

import hashlib
from pathlib import Path

_MARK = "<!-- generated; edit this file and it is kept: sha256 "
_END = " -->\n"


def signed(text: str) -> str:
    """Return `text`, which ends with a newline, with a comment that holds its digest."""
    return f"{text}{_MARK}{_digest(text)}{_END}"


def is_edited(file: Path) -> bool:
    """Return True if `file` exists and is not what `signed` has returned."""
    try:
        text, mark, end = file.read_text(encoding="utf-8").rpartition(_MARK)
    except OSError:
        return False
    except UnicodeDecodeError:
        return True
    return not mark or end != f"{_digest(text)}{_END}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
