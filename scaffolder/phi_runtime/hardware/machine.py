"""What memory and which number types this machine has, asked without torch, whose import takes seconds."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")
_LIMITS = (  # limit, use, and where the reclaimable part of it stands: version 2 of the kernel's control groups, then version 1
    ("memory.max", "memory.current", "memory.stat"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat"),
)


@dataclass(frozen=True)
class Gpu:
    """An NVIDIA card. `capability` is CUDA's version of what it can, such as 9.0; bfloat16 came with 8.0."""

    name: str
    memory_bytes: int
    free_bytes: int
    capability: float


def memory_bytes() -> int:
    """Memory that this process may use: the machine's, or the container's limit when that is lower."""
    return _memory()[0]


def available_bytes() -> int:
    """Memory that is free, or that the system gives up when it is asked for."""
    return _memory()[1]


def _memory() -> tuple[int, int]:
    """(all, free)"""
    if sys.platform == "win32":
        return _windows_memory()
    total = available = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        available = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        pass  # no Linux: what is free is not told, all of it is taken for that
    for files in _LIMITS:
        try:
            limit, usage, statistics = ((_CGROUPS / file).read_text() for file in files)
        except OSError:
            continue
        if limit.strip().isdigit():
            cached = next((int(x.split()[1]) for x in statistics.splitlines() if "inactive_file" in x), 0)
            total, available = min(total, int(limit)), min(available, int(limit) - int(usage) + cached)
    return total, max(available, 0)


def _windows_memory() -> tuple[int, int]:
    import ctypes

    class Status(ctypes.Structure):
        _fields_ = [("length", ctypes.c_ulong), ("load", ctypes.c_ulong)] + [
            (f"f{i}", ctypes.c_ulonglong) for i in range(7)
        ]

    status = Status(length=ctypes.sizeof(Status))
    ctypes.windll.kernel32.GlobalMemoryStatusEx(ctypes.byref(status))  # type: ignore[attr-defined]
    return int(status.f0), int(status.f1)


def gpus() -> tuple[Gpu, ...]:
    """The NVIDIA cards that this process may use, as their driver tells; none where it does not answer."""
    tool, visible = shutil.which("nvidia-smi"), os.environ.get("CUDA_VISIBLE_DEVICES")
    if tool is None or visible == "":
        return ()
    query = [tool, "--query-gpu=name,memory.total,memory.free,compute_cap", "--format=csv,noheader,nounits"]
    query += [f"--id={visible}"] if visible else []
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True)
        cards = [[field.strip() for field in line.split(",")] for line in done.stdout.splitlines() if line.strip()]
        mib = 1 << 20
        return tuple(Gpu(name, int(all_) * mib, int(free) * mib, float(cap)) for name, all_, free, cap in cards)
    except (OSError, subprocess.SubprocessError, ValueError):
        return ()


def has_bfloat16(device: str) -> bool | None:
    """Whether `device` ("cpu" or "gpu") has instructions for bfloat16, as device.has_bfloat16 finds with torch; None where
    that does not show without it."""
    if device == "gpu":
        cards = gpus()
        return cards[0].capability >= 8.0 if cards else None
    if sys.platform == "darwin":
        return False
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return None
    flags = next((line for line in lines if line.startswith("flags")), "").split()
    return "avx512_bf16" in flags or "amx_tile" in flags
