"""How several processes are started by hand, for a reader."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from phi_runtime.pipeline.launch_commands import ByHand


def by_hand(written: ByHand, *, as_json: bool) -> None:
    """The command line that was asked for; plain text, to be copied."""
    if as_json:
        print(json.dumps({"config": str(written.config), "stage": written.stage, "command": written.command}))
        return
    print(f"{written.config} is written. This trains `{written.stage}` with it:\n\n  {written.command}\n")
    print(
        "What it does goes to its stdout as lines of JSON. When it is done, `phi-scaffold run` takes over what it has trained."
    )
