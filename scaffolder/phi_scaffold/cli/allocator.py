"""A setting of the C library, for commands that train, which takes effect when a process starts.

Before glibc 2.39 a freed aligned block often fits no block of the same size: the few bytes that were cut off next to it are in a
cache of small blocks, or have been used since (https://sourceware.org/bugzilla/show_bug.cgi?id=30723). All tensors are aligned
blocks, and the graph of a training makes many small ones: it held up to half a gigabyte that it had freed. Without these caches
the bytes are merged again, and training is as fast.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import suppress

VARIABLE = "GLIBC_TUNABLES"
_SETTING = "glibc.malloc.tcache_count=0:glibc.malloc.mxfast=0"
_COMMANDS = ("run", "sweep")
_FIXED_IN = (2, 39)


def restart_to_train(arguments: Sequence[str]) -> None:
    """Start the command line with `arguments` once more in this process, if it trains and the setting is not there yet.

    Nothing happens under a debugger, or where the user has set `GLIBC_TUNABLES`.
    """
    if arguments and arguments[0] in _COMMANDS and VARIABLE not in os.environ and _can_restart(arguments):
        os.environ[VARIABLE] = _SETTING
        with suppress(OSError):  # as before, with more memory
            os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def _can_restart(arguments: Sequence[str]) -> bool:
    if "debugpy" in sys.modules or sys.gettrace() is not None:
        return False
    return _keeps_freed_blocks() and list(sys.orig_argv[-len(arguments) :]) == list(arguments)


def _keeps_freed_blocks() -> bool:
    """Return True if the C library is a glibc with the fault."""
    try:
        name, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").split()
        return name == "glibc" and tuple(int(part) for part in version.split(".")[:2]) < _FIXED_IN
    except (AttributeError, ValueError, OSError):  # another system, or another C library
        return False
