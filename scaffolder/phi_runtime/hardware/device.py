"""Which device and number type the work is done in, and on how many cores."""

from __future__ import annotations

import os
import shutil
import sys
from typing import TYPE_CHECKING

from phi_runtime.core.errors import MissingDependency

if TYPE_CHECKING:
    import torch


CORES = "PHI_SCAFFOLD_CORES"  # environment variable: the share of a process that works beside others


def usable_cores() -> int:
    """Cores that this process may use: its affinity, not the machine's count, or its share where others work beside it."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    share = os.environ.get(CORES, "")
    return min(cores, max(1, int(share))) if share.isdigit() else cores


def has_gpu() -> bool:
    """Whether there is a GPU that torch may know, as far as that shows without its import."""
    return sys.platform == "darwin" or has_nvidia_gpu()


def has_nvidia_gpu() -> bool:
    """Whether there is an NVIDIA driver; asked without torch, whose import takes seconds."""
    return shutil.which("nvidia-smi") is not None


def pick_device(wanted: str) -> str:
    """The torch device for the config's "cpu" or "gpu". Raises MissingDependency when there is no GPU that torch can use."""
    import torch

    torch.set_num_threads(usable_cores())
    if wanted == "cpu":
        return "cpu"
    device = best_device()
    if device == "cpu":
        raise MissingDependency(
            "the config's host has a GPU, and torch finds none on this machine",
            fix="see `phi-scaffold doctor`; or run with the device that this machine has: `phi-scaffold run --on local`",
        )
    return device


def best_device() -> str:
    """The torch device of this machine's GPU, cpu where there is none."""
    import torch

    torch.set_num_threads(usable_cores())
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def has_bfloat16(device: str) -> bool:
    """Whether the device multiplies bfloat16 matrices in hardware; without that they are several times slower than float32."""
    import torch

    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device == "cpu":
        return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return False


def compute_dtype(wanted: str, device: str) -> torch.dtype:
    """The number type to compute in: `wanted` where the device can, else float32."""
    import torch

    if wanted == "bfloat16" and has_bfloat16(device):
        return torch.bfloat16
    if wanted == "float16" and device == "cuda":
        return torch.float16
    return torch.float32
