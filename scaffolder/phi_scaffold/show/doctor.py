"""Output of `doctor`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from phi_scaffold.show.terminal import prose

if TYPE_CHECKING:
    from phi_scaffold.doctor import Check

_MESSAGE = 15  # columns before a message


def checks(results: Sequence[Check], *, as_json: bool, quiet: bool) -> None:
    """Print each check and the fix of each problem; if `quiet`, only the problems."""
    if as_json:
        print(json.dumps({"findings": [check.as_dict() for check in results]}))
        return
    from rich.text import Text

    marks = {"good": ("✓", "green"), "note": ("!", "yellow"), "error": ("✗", "red")}
    for check in results:
        if quiet and check.level == "good":
            continue
        prose(Text.assemble(marks[check.level], f" {check.subject:12} {check.message}"), hanging=_MESSAGE)
        if check.fix:
            prose(f"{'':{_MESSAGE}}{check.fix}")
