"""Checks of this machine: Python, cores, memory, disk, folders, GPU, editor. Imports no ML library."""

from __future__ import annotations

import getpass
import os
import platform
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from phi_runtime.core.project import ProjectFolder
from phi_runtime.core.units import size
from phi_runtime.hardware.device import has_nvidia_gpu, usable_cores
from phi_runtime.hardware.machine import has_bfloat16, memory_bytes, of_gpus
from phi_scaffold.doctor.check import Check, Needs

_SMALL_MEMORY_BYTES = 4e9
_SMALL_DISK_BYTES = 5e9


@dataclass(frozen=True)
class Card:
    """An NVIDIA GPU, as its driver reports it."""

    name: str
    memory: str
    driver: str

    def __str__(self) -> str:
        return f"{self.name}, {self.memory}, {self.driver}"


def python() -> Check:
    """Return the version and the path of this Python."""
    text = f"{platform.python_version()} ({sys.executable})"
    return Check("good", "python", text, value=platform.python_version())


def cores() -> Check:
    """Return the cores that this process may use, and whether they compute in bfloat16."""
    count = usable_cores()
    bf16 = has_bfloat16("cpu")
    kind = "with" if bf16 else "without"
    return Check(
        "good",
        "cores",
        f"{count}, {kind} AMX instructions{'' if bf16 else ' (computing in float32)'}",
        value=count,
    )


def memory(needs: Needs) -> Check:
    """Return the memory that this process may use, and a training that is not likely to fit into it or into that of the GPU."""
    total = memory_bytes()
    if needs.too_large:
        return Check("note", "memory", f"{total / 1e9:.1f} GB; {needs.too_large}", needs.fitting, total)
    if total < _SMALL_MEMORY_BYTES:
        return Check(
            "note",
            "memory",
            f"{total / 1e9:.1f} GB: only enough for the smallest models",
            "see `phi-scaffold models`",
            total,
        )
    return Check("good", "memory", f"{total / 1e9:.1f} GB", value=total)


def disk(project: ProjectFolder | Path, needs: Needs) -> Check:
    """Return the free disk space, against what the next run would write."""
    folder = project if isinstance(project, Path) else project.root
    free, where = shutil.disk_usage(folder).free, f"free at {folder}"
    if needs.disk_bytes is not None:
        needed = f"`run` writes {f'about {size(needs.disk_bytes)}' if needs.disk_bytes else 'nothing'}"
        if free < needs.disk_bytes:
            fix = "phi-scaffold clean        (shows what can be deleted), or choose a smaller model"
            return Check("error", "disk", f"{size(free)} {where}, and {needed}", fix, free)
        return Check("good", "disk", f"{size(free)} {where}; {needed}", value=free)
    if free < _SMALL_DISK_BYTES:
        fix = "free some space: a project with the smallest model takes about 4 GB"
        return Check("note", "disk", f"{size(free)} {where}", fix, free)
    return Check("good", "disk", f"{size(free)} {where}", value=free)


def folders(project: ProjectFolder | Path) -> list[Check]:
    """Return the folder of models or outputs that cannot be written; nothing if there is none."""
    if isinstance(project, Path):
        return []
    existing = {
        next(p for p in (folder, *folder.parents) if p.exists()) for folder in (project.model_cache, project.gen_model)
    }
    refused = sorted(str(folder) for folder in existing if not os.access(folder, os.W_OK | os.X_OK))
    if not refused:
        return [Check("good", "folders", "model-cache and gen-model can be written", value=True)]
    user, quoted = getpass.getuser(), " ".join(f'"{folder}"' for folder in refused)
    fix = f"icacls {quoted} /grant {user}:M /T" if os.name == "nt" else f"sudo chown -R {user} {quoted}"
    return [Check("error", "folders", f"not writable: {', '.join(refused)}", fix, False)]


def wsl(project: ProjectFolder | Path) -> list[Check]:
    """Return the version of WSL, and whether the project is on a Windows disk; nothing outside of it."""
    release = platform.release()
    if "microsoft" not in release.lower():
        return []
    folder = project if isinstance(project, Path) else project.root
    if str(folder).startswith("/mnt/"):
        fix = f'mv "{folder}" ~/'
        return [Check("note", "wsl", f"{folder} is on a Windows disk, which is several times slower", fix, release)]
    return [Check("good", "wsl", release, value=release)]


def gpu() -> tuple[Check, list[Card]]:
    """Return the NVIDIA GPUs that a run may use, as their driver reports them."""
    cards = list(of_gpus(_card))
    if cards:
        return Check("good", "gpu", "; ".join(map(str, cards)), value=list(map(str, cards))), cards
    if has_nvidia_gpu():
        return Check("note", "gpu", "the NVIDIA driver finds no GPU", "check the NVIDIA driver: nvidia-smi", []), []
    why = "CUDA_VISIBLE_DEVICES hides all GPUs" if shutil.which("nvidia-smi") else "no NVIDIA driver"
    return Check("note", "gpu", f"{why}; using the CPU", value=[]), []


def _card(pynvml: Any, handle: Any) -> Card:
    try:
        memory = f"{pynvml.nvmlDeviceGetMemoryInfo(handle).total >> 20} MiB"
    except pynvml.NVMLError:  # a GPU that shares the memory of the machine, such as a GB10, has none
        memory = "shared memory"
    return Card(pynvml.nvmlDeviceGetName(handle), memory, pynvml.nvmlSystemGetDriverVersion())


def editor() -> Check:
    """Return the editor that the tasks of a project are for."""
    editor = next((name for name in ("code", "codium", "cursor") if shutil.which(name)), None)
    if editor is None:
        return Check(
            "note", "editor", "VS Code is not on the PATH (the project has tasks and debug settings for it)", value=None
        )
    return Check("good", "editor", editor, value=editor)
