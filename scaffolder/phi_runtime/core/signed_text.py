"""Generated files that are replaced only while the user has not edited them: their last line holds a digest of the rest."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Literal

_MARK = "generated; edit this file and it is kept: sha256 "
_COMMENTS = {"<!--": ("<!-- ", " -->\n"), "#": ("# ", "\n")}
_LAST_LINE = re.compile(rf"(?:<!-- {_MARK}([0-9a-f]{{64}}) -->|# {_MARK}([0-9a-f]{{64}}))\n")


def signed(text: str, comment: Literal["<!--", "#"] = "<!--") -> str:
    """Return `text`, which ends with a newline, with a comment that holds its digest."""
    opening, closing = _COMMENTS[comment]
    return f"{text}{opening}{_MARK}{_digest(text)}{closing}"


def is_edited(file: Path) -> bool:
    """Return True if `file` exists and is not what `signed` has returned."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
    except OSError:
        return False
    except UnicodeDecodeError:
        return True
    match = _LAST_LINE.fullmatch(lines[-1]) if lines else None
    return match is None or _digest("".join(lines[:-1])) not in match.groups()


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
