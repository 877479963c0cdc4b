"""How a failed command ends: what, where, what to do next, and the documented exit code. No traceback without --debug."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import Any

from phi_runtime.core.errors import ConfigError, PhiError

INTERRUPTED = 130


def guarded(app: Callable[[], Any]) -> int:
    """Runs `app` and returns its exit code."""
    debug, as_json = "--debug" in sys.argv, "--json" in sys.argv
    try:
        app()
    except SystemExit as e:
        return e.code if isinstance(e.code, int) else int(bool(e.code))
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        _forget_stdout()
        return 0
    except PhiError as e:
        if debug:
            raise
        try:
            _tell(e, as_json)
        except BrokenPipeError:
            _forget_stdout()
        return e.exit_code
    except Exception as e:
        if debug:
            raise
        print(f"error: {type(e).__name__}: {e}", file=sys.stderr)
        print("  this is a fault of phi-scaffold; run it again with --debug and report what it prints", file=sys.stderr)
        return 1
    return 0


def _forget_stdout() -> None:
    """The reader of our output has gone, as `head` does: what is still to be written, at exit too, goes nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _tell(error: PhiError, as_json: bool) -> None:
    if as_json:
        where = str(error.where) if error.where else None
        print(
            json.dumps(
                {
                    "event": "error",
                    "message": error.what,
                    "where": where,
                    "fix": error.fix,
                    "exit_code": error.exit_code,
                }
            )
        )
        return
    if isinstance(error, ConfigError) and error.findings:
        for finding in error.findings:
            print(finding, file=sys.stderr)
    else:
        print(error if error.where else f"error: {error}", file=sys.stderr)
    if error.fix:
        print(f"  {error.fix}", file=sys.stderr)
