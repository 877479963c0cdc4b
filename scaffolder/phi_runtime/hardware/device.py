"""The device and number type to compute with, and the number of cores."""

from __future__ import annotations

import math
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from phi_runtime.core.errors import MissingDependency
from phi_runtime.hardware.machine import chosen_bfloat16

if TYPE_CHECKING:
    import torch

CORES, OMP_THREADS = "PHI_SCAFFOLD_CORES", "OMP_NUM_THREADS"
"""Environment variables: the number of cores of a process that shares the machine with others, and the user's for all programs."""

AMD_DRIVER = Path("/dev/kfd")


def usable_cores() -> int:
    """Return the cores that this process may use: those of `machine_cores`, fewer where `CORES` or else `OMP_THREADS` says so."""
    limits = (os.environ.get(name, "").partition(",")[0].strip() for name in (CORES, OMP_THREADS))
    limit = next((int(text) for text in limits if text.isdecimal() and int(text) > 0), None)
    cores = machine_cores()
    return min(cores, limit or cores)


def machine_cores(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Return the cores that the system lets this process use: its affinity, and the limit of its container."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    with suppress(OSError, ValueError):  # version 2
        quota, period = (cgroup / "cpu.max").read_text(encoding="ascii").split()
        return min(cores, math.ceil(int(quota) / int(period)))
    with suppress(OSError, ValueError):  # version 1; a quota of -1 is no limit
        quota, period = (
            (cgroup / "cpu" / f"cpu.cfs_{name}_us").read_text(encoding="ascii") for name in ("quota", "period")
        )
        return min(cores, math.ceil(int(quota) / int(period))) if int(quota) > 0 else cores
    return cores


def share_of(cores: int) -> dict[str, str]:
    """Return the environment variables that let a process compute with `cores` threads, in every library."""
    return {name: str(cores) for name in (CORES, OMP_THREADS, "RAYON_NUM_THREADS")}


def inherited_share() -> dict[str, str]:
    """Return `share_of` this process if it has a share of the cores, for the processes that it starts."""
    return share_of(usable_cores()) if CORES in os.environ else {}


def has_gpu() -> bool:
    """Return True if torch may find a GPU, as far as can be known without importing it."""
    return sys.platform == "darwin" or has_nvidia_gpu() or AMD_DRIVER.exists()


def has_nvidia_gpu() -> bool:
    """Return True if the NVIDIA driver is installed and CUDA_VISIBLE_DEVICES does not hide all GPUs."""
    import shutil

    return os.environ.get("CUDA_VISIBLE_DEVICES") not in ("", "-1") and shutil.which("nvidia-smi") is not None


def pick_device(host_device: str) -> str:
    """Return the torch device for the config's "cpu" or "gpu".

    Raises:
        MissingDependency: the config's host has a GPU and torch finds none.
    """
    import torch

    torch.set_num_threads(usable_cores())
    if host_device == "cpu":
        return "cpu"
    device = best_device()
    if device == "cpu":
        raise MissingDependency(
            "the config's host has a GPU, but torch finds none on this machine",
            fix="see `phi-scaffold doctor`, or run on this machine's own device: `phi-scaffold run --on local`",
        )
    return device


def best_device() -> str:
    """Return the torch device of this machine's GPU, or "cpu"."""
    import torch

    torch.set_num_threads(usable_cores())
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def has_bfloat16(device: str) -> bool:
    """Return True if the torch device is to multiply bfloat16 matrices, which it has instructions for.

    `machine.has_bfloat16` answers the same without torch.
    """
    import torch

    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device == "cpu":
        if (chosen := chosen_bfloat16()) is not None:
            return chosen
        return bool(torch.cpu._is_amx_tile_supported())
    return False


def compute_dtype(number_type: str, device: str) -> torch.dtype:
    """Return the dtype to compute in on a torch device: `number_type` where the device has it, else float32."""
    import torch

    if number_type == "bfloat16" and has_bfloat16(device):
        return torch.bfloat16
    if number_type == "float16" and device == "cuda":
        return torch.float16
    return torch.float32
