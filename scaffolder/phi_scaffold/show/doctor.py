"""Output of `doctor`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from phi_scaffold.show.terminal import console, marks

if TYPE_CHECKING:
    from phi_scaffold.doctor import Check


def checks(results: Sequence[Check], *, as_json: bool, quiet: bool) -> None:
    """Print each check and the fix of each problem; if `quiet`, only the problems."""
    if as_json:
        print(json.dumps({"findings": [check.as_dict() for check in results]}))
        return
    out = console()
    yes, no = marks()
    shown = {"good": f"[green]{yes}[/]", "note": "[yellow]![/]", "error": f"[red]{no}[/]"}
    for check in results:
        if quiet and check.level == "good":
            continue
        out.print(f"{shown[check.level]} {check.subject:12} {check.message}")
        if check.fix:
            out.print(f"{'':15}{check.fix}", markup=False)
