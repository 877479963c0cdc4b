"""Memory of processes, and its peak in a part of this one."""

from __future__ import annotations

import sys
from pathlib import Path

from phi_runtime.hardware.machine import memory_bytes


def reset_peak() -> None:
    """Lets the peak count anew from now, where the kernel can (Linux: proc(5), clear_refs)."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def peak_rss_bytes() -> int | None:
    """The largest resident set since `reset_peak`, in bytes; None where it cannot be told for a part of a process."""
    return _status_bytes("VmHWM", "self")


def resident_bytes(pid: int | None) -> int | None:
    """The resident set of a process, in bytes; None where the system does not tell."""
    return _status_bytes("VmRSS", str(pid))


def _status_bytes(name: str, process: str) -> int | None:
    """A size from /proc (Linux: proc(5), status)."""
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith(f"{name}:")), None)


def peak_and_total(device: str) -> tuple[int | None, int]:
    """The memory of `device` that was taken at most, and what it has, in bytes: of the machine, or of this process's GPU."""
    if not device.startswith("cuda"):
        return peak_rss_bytes(), memory_bytes()
    import torch

    return torch.cuda.max_memory_reserved(), torch.cuda.mem_get_info()[1]


def peak_of_process_bytes() -> int | None:
    """The largest resident set of this whole process, in bytes, on every system that tells it."""
    peak = peak_rss_bytes()
    if peak is not None:
        return peak
    if sys.platform == "win32":
        return _windows_peak()
    import resource

    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used if sys.platform == "darwin" else used * 1024


def _windows_peak() -> int | None:
    import ctypes

    class Counters(ctypes.Structure):  # PROCESS_MEMORY_COUNTERS
        _fields_ = [("size", ctypes.c_ulong), ("faults", ctypes.c_ulong), ("peak", ctypes.c_size_t)] + [
            (f"f{i}", ctypes.c_size_t) for i in range(7)
        ]

    counters, kernel = Counters(size=ctypes.sizeof(Counters)), ctypes.windll.kernel32  # type: ignore[attr-defined]
    kernel.GetCurrentProcess.restype = ctypes.c_void_p
    kernel.K32GetProcessMemoryInfo.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_ulong)
    told = kernel.K32GetProcessMemoryInfo(kernel.GetCurrentProcess(), ctypes.byref(counters), counters.size)
    return int(counters.peak) if told else None
