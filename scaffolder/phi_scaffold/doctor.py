"""What this machine and this environment have, and what to do about what they lack. Imports no ML library."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from phi_runtime.core.artifacts import versions
from phi_runtime.core.project import Project
from phi_runtime.hardware.device import usable_cores
from phi_runtime.hardware.machine import has_bfloat16, memory_bytes

GENAI_FLAVOURS = (
    "onnxruntime-genai",
    "onnxruntime-genai-cuda",
    "onnxruntime-genai-directml",
    "onnxruntime-genai-winml",
)
ORT_FLAVOURS = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-directml")
RUNTIME = ("torch", "transformers", "peft", "accelerate", "onnx", "huggingface-hub", "safetensors", "gguf")
_SMALL_MEMORY_BYTES = 4e9
_SMALL_DISK_BYTES = 5e9


@dataclass(frozen=True)
class Finding:
    """One thing looked at. A `fault` stops work, a `note` may; `fix` is the line that mends it. `value` is for machines."""

    level: Literal["good", "note", "fault"]
    subject: str
    message: str
    fix: str = ""
    value: Any = None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def examine(project: Project | None) -> list[Finding]:
    """Everything, in the order in which it matters."""
    checks: list[Callable[[], Finding]] = [
        _python,
        _cores,
        _memory,
        lambda: _disk(project),
        _gpu,
        lambda: _runtime(project),
        _flavours,
        _token,
        _editor,
    ]
    return [check() for check in checks]


def _python() -> Finding:
    text = f"{platform.python_version()} ({sys.executable})"
    return Finding("good", "python", text, value=platform.python_version())


def _cores() -> Finding:
    count = usable_cores()
    bf16 = has_bfloat16("cpu")
    kind = "with" if bf16 else "without"
    return Finding(
        "good",
        "cores",
        f"{count}, {kind} bfloat16 instructions{'' if bf16 else ' (float32 is computed in)'}",
        value=count,
    )


def _memory() -> Finding:
    total = memory_bytes()
    if total < _SMALL_MEMORY_BYTES:
        return Finding(
            "note",
            "memory",
            f"{total / 1e9:.1f} GB: enough for the smallest models alone",
            "see `phi-scaffold models`",
            total,
        )
    return Finding("good", "memory", f"{total / 1e9:.1f} GB", value=total)


def _disk(project: Project | None) -> Finding:
    folder = project.root if project else Path.cwd()
    free = shutil.disk_usage(folder).free
    if free < _SMALL_DISK_BYTES:
        return Finding(
            "note",
            "disk",
            f"{free / 1e9:.1f} GB free at {folder}",
            "a project with the smallest model takes about 4 GB",
            free,
        )
    return Finding("good", "disk", f"{free / 1e9:.1f} GB free at {folder}", value=free)


def _gpu() -> Finding:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return Finding("note", "gpu", "no NVIDIA driver: everything runs on the CPU", value=[])
    query = [tool, "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return Finding("note", "gpu", "nvidia-smi does not answer", "check the NVIDIA driver", [])
    cards = [line.strip() for line in done.stdout.splitlines() if line.strip()] if done.returncode == 0 else []
    if not cards:
        said = (done.stdout or done.stderr).strip().splitlines()
        return Finding("note", "gpu", f"nvidia-smi: {said[0] if said else 'no card'}", "check the NVIDIA driver", [])
    return Finding("good", "gpu", "; ".join(cards), value=cards)


def _runtime(project: Project | None) -> Finding:
    found = versions(RUNTIME)
    missing = [name for name in RUNTIME if name not in found]
    if not missing:
        return Finding("good", "runtime", ", ".join(f"{n} {v}" for n, v in found.items()), value=found)
    if project is None:
        return Finding("note", "runtime", "not in this environment; each project installs its own", value=found)
    setup = r"powershell -File setup\setup.ps1" if os.name == "nt" else "bash setup/setup.sh"
    what = "not installed" if len(missing) == len(RUNTIME) else f"{', '.join(missing)} missing"
    return Finding("fault", "runtime", what, f"run `{setup}` in {project.root}", found)


def _flavours() -> Finding:
    genai, ort = versions(GENAI_FLAVOURS), versions(ORT_FLAVOURS)
    for kind, found in (("ONNX Runtime GenAI", genai), ("ONNX Runtime", ort)):
        if len(found) > 1:
            names = list(found)
            keep = next((n for n in names if n not in ("onnxruntime-genai", "onnxruntime")), names[0])
            others = " ".join(n for n in names if n != keep)
            message = (
                f"{' and '.join(names)} are in one environment; they install over each other, and both break ({kind})"
            )
            fix = f"{sys.executable} -m pip uninstall -y {' '.join(names)} && {sys.executable} -m pip install {keep}=={found[keep]}"
            return Finding("fault", "onnxruntime", message, f"{fix}   (without {others})", {**genai, **ort})
    if not genai:
        return Finding("note", "onnxruntime", "ONNX Runtime GenAI is not in this environment", value={})
    return Finding(
        "good", "onnxruntime", ", ".join(f"{n} {v}" for n, v in {**genai, **ort}.items()), value={**genai, **ort}
    )


def _token() -> Finding:
    home = Path(os.environ.get("HF_HOME", Path.home() / ".cache" / "huggingface"))
    if os.environ.get("HF_TOKEN"):
        return Finding("good", "hub token", "HF_TOKEN is set", value=True)
    if (home / "token").is_file():
        return Finding("good", "hub token", "logged in", value=True)
    return Finding(
        "note",
        "hub token",
        "none; needed for gated and private models only",
        "`hf auth login`, or HF_TOKEN in .env",
        False,
    )


def _editor() -> Finding:
    found = next((name for name in ("code", "codium", "cursor") if shutil.which(name)), None)
    if found is None:
        return Finding(
            "note", "editor", "VS Code is not on the PATH (the project has tasks and debug settings for it)", value=None
        )
    return Finding("good", "editor", found, value=found)
