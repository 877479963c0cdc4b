"""Output of `doctor`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from phi_scaffold.show.terminal import marks, prose

if TYPE_CHECKING:
    from phi_scaffold.doctor import Check

_MESSAGE = 15  # columns before a message


def checks(results: Sequence[Check], *, as_json: bool, quiet: bool) -> None:
    """Print each check and the fix of each problem; if `quiet`, only the problems."""
    if as_json:
        print(json.dumps({"findings": [check.as_dict() for check in results]}))
        return
    from rich.text import Text

    yes, no = marks()
    shown = {"good": f"[green]{yes}[/]", "note": "[yellow]![/]", "error": f"[red]{no}[/]"}
    for check in results:
        if quiet and check.level == "good":
            continue
        mark = Text.from_markup(shown[check.level])
        prose(Text.assemble(mark, f" {check.subject:12} {check.message}"), hanging=_MESSAGE)
        if check.fix:
            prose(f"{'':{_MESSAGE}}{check.fix}")
