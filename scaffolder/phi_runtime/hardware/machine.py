"""Memory, GPUs and number types of this machine, read without importing torch (which takes seconds)."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

BFLOAT16 = "PHI_SCAFFOLD_BFLOAT16"
"""Environment variable: 0 computes in float32 on a CPU that has AMX instructions; 1 in bfloat16 on one without them."""
_CGROUPS = Path("/sys/fs/cgroup")
_LIMIT_FILES = (  # limit, usage and statistics of the kernel's control groups: version 2, then version 1
    ("memory.max", "memory.current", "memory.stat"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat"),
)

T = TypeVar("T")


@dataclass(frozen=True)
class Gpu:
    """An NVIDIA GPU. `capability` is its CUDA compute capability, such as 9.0; bfloat16 needs 8.0."""

    name: str
    memory_bytes: int
    free_bytes: int
    capability: float


def memory_bytes() -> int:
    """Return the memory that this process may use: the machine's, or the container's limit if that is lower."""
    return _total_and_available()[0]


def available_bytes() -> int:
    """Return the memory that is free or reclaimable."""
    return _total_and_available()[1]


def _total_and_available() -> tuple[int, int]:
    import psutil  # type: ignore[import-untyped]

    memory = psutil.virtual_memory()
    total, available = memory.total, memory.available
    for files in _LIMIT_FILES:  # psutil does not read the limits of containers
        try:
            limit, usage, statistics = ((_CGROUPS / file).read_text() for file in files)
        except OSError:
            continue
        if limit.strip().isdigit():
            reclaimable = next((int(x.split()[1]) for x in statistics.splitlines() if "inactive_file" in x), 0)
            total = min(total, int(limit))
            available = min(available, int(limit) - int(usage) + reclaimable)
    return total, max(available, 0)


def gpus() -> tuple[Gpu, ...]:
    """Return the NVIDIA GPUs that this process may use, from their driver (NVML); empty if there is none."""
    return of_gpus(_describe)


def of_gpus(read: Callable[[Any, Any], T]) -> tuple[T, ...]:
    """Return what `read` returns for each GPU that this process may use; empty if there is none, or one cannot be read.

    Args:
        read: Called with the module pynvml and the handle of a GPU.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible == "":
        return ()
    try:
        import pynvml  # type: ignore[import-untyped]

        pynvml.nvmlInit()
    except Exception:  # no nvidia-ml-py, no driver, or a driver without a device
        return ()
    try:
        count = pynvml.nvmlDeviceGetCount()
        handles = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(count)]
        if visible is not None:
            handles = list(_visible(pynvml, visible, handles))
        return tuple(read(pynvml, handle) for handle in handles)
    except pynvml.NVMLError:
        return ()
    finally:
        pynvml.nvmlShutdown()


def used_gpu_bytes() -> int:
    """Return the memory in use on the first GPU, by all processes; 0 without a GPU."""
    return next((card.memory_bytes - card.free_bytes for card in gpus()), 0)


def _visible(pynvml: Any, visible: str, handles: Sequence[Any]) -> Iterator[Any]:
    """Yield the handle of each entry of CUDA_VISIBLE_DEVICES, an index or a UUID, up to the first that names no GPU, as CUDA does."""
    for device in map(str.strip, visible.split(",")):
        try:
            yield handles[int(device)] if device.isdigit() else pynvml.nvmlDeviceGetHandleByUUID(device.encode())
        except (pynvml.NVMLError, IndexError):
            return


def _describe(pynvml: Any, handle: Any) -> Gpu:
    name = pynvml.nvmlDeviceGetName(handle)
    memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
    major, minor = pynvml.nvmlDeviceGetCudaComputeCapability(handle)
    text = name.decode() if isinstance(name, bytes) else str(name)
    return Gpu(text, int(memory.total), int(memory.free), major + minor / 10)


def chosen_bfloat16() -> bool | None:
    """Return the user's choice for the CPU, by `BFLOAT16`; None: as its instructions say."""
    return {"0": False, "1": True}.get(os.environ.get(BFLOAT16, "").strip())


def has_bfloat16(device: str) -> bool | None:
    """Return True if `device` ("cpu" or "gpu") is to multiply bfloat16 matrices: it has instructions for it; None: not known.

    Without hardware support bfloat16 is several times slower than float32. With the vector instructions of AVX-512 alone it is still
    a quarter slower (SmolLM2-135M), so that a CPU needs AMX. `device.compute_dtype` uses torch's own answer, which agrees.
    """
    if device == "gpu":
        cards = gpus()
        return cards[0].capability >= 8.0 if cards else None
    if (chosen := chosen_bfloat16()) is not None:
        return chosen
    if sys.platform == "darwin":
        return False
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return None
    flags = next((line for line in lines if line.startswith("flags")), "").split()
    return "amx_tile" in flags
