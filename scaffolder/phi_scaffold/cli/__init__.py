"""The command line: one thin module per command. Each reads its arguments, calls, and shows; the logic is elsewhere."""

from __future__ import annotations

import gc
import os
import sys


def main() -> None:
    """Entry point. Turns every error into one message and the exit code of its kind."""
    # A start is imports, and what they make is there to stay: looking through it for garbage every 700 objects, and through
    # all installed packages for plugins of pydantic, would be a fifth of the time of `validate`.
    gc.set_threshold(50_000)
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    from phi_scaffold.cli.app import command_line
    from phi_scaffold.cli.failure import guarded

    code = guarded(command_line(sys.argv[1:]))
    gc.freeze()  # nor is there garbage to look for at the end
    sys.exit(code)
