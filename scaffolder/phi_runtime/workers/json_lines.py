"""What a process that works for another one tells it: a line of JSON each, on its stdout, and what its end says."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any

Tell = Callable[[dict[str, Any]], None]


def own_stdout() -> Tell:
    """Writes lines to what was stdout; what libraries print there goes to stderr from now on."""
    told = os.fdopen(os.dup(1), "w", encoding="utf-8", newline="\n", buffering=1)
    os.dup2(2, 1)

    def tell(line: dict[str, Any]) -> None:
        told.write(json.dumps(line) + "\n")

    return tell


def ending(code: int) -> str:
    """In words, what the exit code of a process says that ended before it had told all."""
    if code < 0:
        return f"its process was killed by signal {-code}, as a system does that has no memory left"
    return f"its process ended with code {code}"
