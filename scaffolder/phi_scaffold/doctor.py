"""Checks of this machine and environment, each with the fix of its problem. Imports no ML library."""

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
from phi_runtime.core.project import ProjectFolder, setup_command
from phi_runtime.hardware.device import usable_cores
from phi_runtime.hardware.machine import has_bfloat16, memory_bytes

GENAI_FLAVORS = (
    "onnxruntime-genai",
    "onnxruntime-genai-cuda",
    "onnxruntime-genai-directml",
    "onnxruntime-genai-winml",
)
ORT_FLAVORS = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-directml")
RUNTIME = ("torch", "transformers", "peft", "accelerate", "onnx", "huggingface-hub", "safetensors", "gguf")
_SMALL_MEMORY_BYTES = 4e9
_SMALL_DISK_BYTES = 5e9


@dataclass(frozen=True)
class Check:
    """The result of one check. An `error` stops work, a `note` may matter; `value` is its machine-readable result."""

    level: Literal["good", "note", "error"]
    subject: str
    message: str
    fix: str = ""
    value: Any = None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def examine(project: ProjectFolder | Path) -> list[Check]:
    """Run all checks, the most important first, for a project or for a folder outside of one."""
    checks: list[Callable[[], Check]] = [
        _python,
        _cores,
        _memory,
        lambda: _disk(project),
        _gpu,
        lambda: _runtime(project),
        _flavors,
        _token,
        _editor,
    ]
    return [check() for check in checks]


def _python() -> Check:
    text = f"{platform.python_version()} ({sys.executable})"
    return Check("good", "python", text, value=platform.python_version())


def _cores() -> Check:
    count = usable_cores()
    bf16 = has_bfloat16("cpu")
    kind = "with" if bf16 else "without"
    return Check(
        "good",
        "cores",
        f"{count}, {kind} bfloat16 instructions{'' if bf16 else ' (computing in float32)'}",
        value=count,
    )


def _memory() -> Check:
    total = memory_bytes()
    if total < _SMALL_MEMORY_BYTES:
        return Check(
            "note",
            "memory",
            f"{total / 1e9:.1f} GB: only enough for the smallest models",
            "see `phi-scaffold models`",
            total,
        )
    return Check("good", "memory", f"{total / 1e9:.1f} GB", value=total)


def _disk(project: ProjectFolder | Path) -> Check:
    folder = project if isinstance(project, Path) else project.root
    free = shutil.disk_usage(folder).free
    if free < _SMALL_DISK_BYTES:
        return Check(
            "note",
            "disk",
            f"{free / 1e9:.1f} GB free at {folder}",
            "free some space: a project with the smallest model takes about 4 GB",
            free,
        )
    return Check("good", "disk", f"{free / 1e9:.1f} GB free at {folder}", value=free)


def _gpu() -> Check:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return Check("note", "gpu", "no NVIDIA driver; using the CPU", value=[])
    query = [tool, "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        result = subprocess.run(query, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return Check("note", "gpu", "nvidia-smi does not respond", "check the NVIDIA driver", [])
    cards = [line.strip() for line in result.stdout.splitlines() if line.strip()] if result.returncode == 0 else []
    if not cards:
        output = (result.stdout or result.stderr).strip().splitlines()
        return Check("note", "gpu", f"nvidia-smi: {output[0] if output else 'no card'}", "check the NVIDIA driver", [])
    return Check("good", "gpu", "; ".join(cards), value=cards)


def _runtime(project: ProjectFolder | Path) -> Check:
    installed = versions(RUNTIME)
    missing = [name for name in RUNTIME if name not in installed]
    if not missing:
        return Check("good", "runtime", ", ".join(f"{n} {v}" for n, v in installed.items()), value=installed)
    if isinstance(project, Path):
        return Check("note", "runtime", "not in this environment; each project installs its own", value=installed)
    what = "not installed" if len(missing) == len(RUNTIME) else f"{', '.join(missing)} missing"
    return Check("error", "runtime", what, f"run `{setup_command()}` in {project.root}", installed)


def _flavors() -> Check:
    genai, ort = versions(GENAI_FLAVORS), versions(ORT_FLAVORS)
    for kind, installed in (("ONNX Runtime GenAI", genai), ("ONNX Runtime", ort)):
        if len(installed) > 1:
            names = list(installed)
            keep = next((n for n in names if n not in ("onnxruntime-genai", "onnxruntime")), names[0])
            others = " ".join(n for n in names if n != keep)
            message = f"{' and '.join(names)} overwrite each other in this environment, and both break ({kind})"
            pip = f"{sys.executable} -m pip"
            fix = (
                f"{pip} uninstall -y {' '.join(names)} && {pip} install {keep}=={installed[keep]}   (without {others})"
            )
            return Check("error", "onnxruntime", message, fix, {**genai, **ort})
    if not genai:
        return Check("note", "onnxruntime", "ONNX Runtime GenAI is not in this environment", value={})
    return Check(
        "good", "onnxruntime", ", ".join(f"{n} {v}" for n, v in {**genai, **ort}.items()), value={**genai, **ort}
    )


def _token() -> Check:
    home = Path(os.environ.get("HF_HOME", Path.home() / ".cache" / "huggingface"))
    if os.environ.get("HF_TOKEN"):
        return Check("good", "hub token", "HF_TOKEN is set", value=True)
    if (home / "token").is_file():
        return Check("good", "hub token", "logged in", value=True)
    return Check(
        "note",
        "hub token",
        "none; only gated and private models need it",
        "run `hf auth login`, or set HF_TOKEN in .env",
        False,
    )


def _editor() -> Check:
    editor = next((name for name in ("code", "codium", "cursor") if shutil.which(name)), None)
    if editor is None:
        return Check(
            "note", "editor", "VS Code is not on the PATH (the project has tasks and debug settings for it)", value=None
        )
    return Check("good", "editor", editor, value=editor)
