"""Memory of processes, and its peak during a part of this one."""

from __future__ import annotations

import gc
import sys
from pathlib import Path

from phi_runtime.hardware.machine import memory_bytes


def reset_peak() -> None:
    """Restart the peak of this process from its current size, where the kernel can (Linux: proc(5), clear_refs)."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def peak_rss_bytes() -> int | None:
    """Return the largest resident set since `reset_peak`, in bytes; None on systems that cannot reset it."""
    try:
        status = Path("/proc/self/status").read_text()  # psutil does not read VmHWM
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM:")), None)


def mapped_bytes() -> dict[str, int]:
    """Return the resident bytes of this process that are mapped from files and unchanged, by file; Linux only.

    A copy of a process (fork) has none of them until it uses them.
    """
    import psutil  # type: ignore[import-untyped]

    return {part.path: part.rss - part.anonymous for part in psutil.Process().memory_maps() if part.path[0] == "/"}


def resident_bytes(pid: int | None) -> int | None:
    """Return the resident set of a process, in bytes; None if it has ended or may not be read."""
    import psutil

    try:
        return int(psutil.Process(pid).memory_info().rss) if pid else None
    except psutil.Error:
        return None


def peak_and_total(device: str) -> tuple[int | None, int]:
    """Return the peak memory of `device` and all it has, in bytes: of the machine, or of this process's GPU."""
    if not device.startswith("cuda"):
        return peak_rss_bytes(), memory_bytes()
    import torch

    return torch.cuda.max_memory_reserved(), torch.cuda.mem_get_info()[1]


def peak_of_process_bytes() -> int:
    """Return the largest resident set of this process since its start, in bytes."""
    if peak := peak_rss_bytes():
        return peak
    if sys.platform == "win32":
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    import resource

    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used if sys.platform == "darwin" else used * 1024


def free_cached() -> None:
    """Free what nothing refers to any more, on the GPU too. Imports no torch."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
