"""Peak memory of a part of this process."""

from __future__ import annotations

from pathlib import Path


def reset_peak() -> None:
    """Lets the peak count anew from now, where the kernel can (Linux: proc(5), clear_refs)."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def peak_rss_bytes() -> int | None:
    """The largest resident set since `reset_peak`, in bytes; None where it cannot be told for a part of a process."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM:")), None)
