"""The command line: one thin module per command. Each reads its arguments, calls, and shows; the logic is elsewhere."""

from __future__ import annotations

import sys


def main() -> None:
    """Entry point. Turns every error into one message and the exit code of its kind."""
    from phi_scaffold.cli.app import app
    from phi_scaffold.cli.failure import guarded

    sys.exit(guarded(app))
