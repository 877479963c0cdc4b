"""Output of `run --emit-accelerate-config`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from phi_runtime.pipeline.launch_commands import LaunchCommand


def launch_command(launch: LaunchCommand, *, as_json: bool) -> None:
    """Print the `accelerate launch` command as plain text, to be copied."""
    if as_json:
        print(json.dumps({"config": str(launch.config), "stage": launch.stage, "command": launch.command}))
        return
    print(f"Wrote {launch.config}. Train `{launch.stage}` with:\n\n  {launch.command}\n")
    print("It prints its progress as JSON lines on stdout. Afterwards, `phi-scaffold run` uses the trained adapter.")
