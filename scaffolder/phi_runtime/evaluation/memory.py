"""Peak memory of a part of this process."""

from __future__ import annotations

from pathlib import Path

from phi_runtime.models.machine import memory_bytes


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


def peak_and_total(device: str) -> tuple[int | None, int]:
    """The memory of `device` that was taken at most, and what it has, in bytes: of the machine, or of this process's GPU."""
    if not device.startswith("cuda"):
        return peak_rss_bytes(), memory_bytes()
    import torch

    return torch.cuda.max_memory_reserved(), torch.cuda.mem_get_info()[1]
