"""The command line: one thin module per command, which reads arguments, calls the runtime and prints the result."""

from __future__ import annotations

import gc
import os
import sys

from phi_scaffold.cli.allocator import restart_to_train
from phi_scaffold.show.encoding import write_nearest


def main() -> None:
    """Run the command line (the entry point `phi-scaffold`) and exit with the code of the command."""
    _open_closed_streams()
    restart_to_train(sys.argv[1:])
    # Imports allocate objects that stay. Collecting garbage every 700 allocations, and searching all installed packages for
    # pydantic plugins, would take a fifth of the time of `validate`.
    gc.set_threshold(100_000)
    for stream in (sys.stdout, sys.stderr):
        write_nearest(stream)
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    from phi_scaffold.cli.app import command_line
    from phi_scaffold.cli.failure import guarded

    try:
        code = guarded(command_line())
    except Exception:  # with --debug
        import traceback

        from phi_runtime.pipeline.run_record import without_secrets
        from phi_scaffold.show.inert import inert_output

        with inert_output():
            print(without_secrets(traceback.format_exc()), file=sys.stderr, end="")
        code = 1
    gc.freeze()  # nothing to collect at exit either
    sys.exit(code)


def _open_closed_streams() -> None:
    """Connect streams that the shell closed (`>&-`), which Python has as None, to nothing."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: PTH123, SIM115
