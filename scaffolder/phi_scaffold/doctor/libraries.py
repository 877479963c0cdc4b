"""Checks of the installed libraries: complete, for this Python, for this GPU, one flavor of each."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from phi_runtime.core.artifacts import versions
from phi_runtime.core.project import ProjectFolder, setup_command
from phi_runtime.hardware.device import AMD_DRIVER
from phi_scaffold.doctor.check import Check, Level, Needs
from phi_scaffold.doctor.machine import Card
from phi_scaffold.environment import venv_python

GENAI_FLAVORS = (
    "onnxruntime-genai",
    "onnxruntime-genai-cuda",
    "onnxruntime-genai-directml",
    "onnxruntime-genai-winml",
)
ORT_FLAVORS = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-directml")
RUNTIME = ("torch", "transformers", "peft", "accelerate", "onnx", "huggingface-hub", "safetensors", "gguf")
_COMPILED = ("torch", "onnx", "safetensors", "tokenizers", "numpy", *GENAI_FLAVORS, *ORT_FLAVORS)
# First driver of each CUDA major version, which runs all of its minor versions (CUDA release notes, minor version compatibility).
_FIRST_DRIVERS = {11: 450, 12: 525, 13: 580}


def runtime(project: ProjectFolder | Path) -> Check:
    """Return the versions of the ML libraries, or those that are missing."""
    installed = versions(RUNTIME)
    missing = [name for name in RUNTIME if name not in installed]
    if not missing:
        return Check("good", "runtime", ", ".join(f"{n} {v}" for n, v in installed.items()), value=installed)
    if isinstance(project, Path):
        return Check("note", "runtime", "not in this environment; each project installs its own", value=installed)
    python = venv_python(project)
    if os.path.lexists(python) and not python.exists():
        what = f"the Python of .venv is gone: {os.path.realpath(python)}"
    else:
        what = "not installed" if len(missing) == len(RUNTIME) else f"{', '.join(missing)} missing"
    return Check("error", "runtime", what, _setup(project), installed)


def wheels(project: ProjectFolder | Path) -> list[Check]:
    """Return the compiled packages of another Python, which cannot be imported by this one; nothing if there are none."""
    others = {
        name: tags for name in _COMPILED if (tags := _wheel_tags(name)) and not any(map(_is_for_this_python, tags))
    }
    if not others:
        return []
    name, tags = next(iter(others.items()))
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    message = f"{', '.join(others)} cannot run in Python {version}: {name} is for {tags[0].partition('-')[0]}"
    return [Check("error", "wheels", message, _setup(project, "--force"), {n: t[0] for n, t in others.items()})]


def _wheel_tags(distribution: str) -> list[str]:
    with suppress(importlib.metadata.PackageNotFoundError):
        text = importlib.metadata.distribution(distribution).read_text("WHEEL") or ""
        return re.findall(r"^Tag: (\S+)", text, re.MULTILINE)
    return []


def _is_for_this_python(tag: str) -> bool:
    """Return True if a tag such as cp311-cp311-manylinux_2_28_x86_64 or cp310-abi3-win_amd64 fits (PEP 425)."""
    python, abi, _ = tag.split("-", 2)
    version = sys.version_info[:2]
    if abi == "abi3" and (match := re.fullmatch(r"cp3(\d+)", python)):
        return (3, int(match[1])) <= version
    return python.startswith("py") or python == f"cp{version[0]}{version[1]}"


def torch(project: ProjectFolder | Path, cards: Sequence[Card], needs: Needs) -> list[Check]:
    """Return the CUDA version of torch, and why it cannot use the GPU that is there; nothing without torch. Does not import it."""
    version = versions(("torch",)).get("torch")
    if version is None:
        return []
    cuda = _cuda_of_torch()
    value = {"version": version, "cuda": cuda}
    level: Level = "error" if needs.gpu else "note"
    is_amd = "rocm" in version and AMD_DRIVER.exists()
    if needs.gpu and not cards and not is_amd and sys.platform != "darwin":
        fix = "phi-scaffold run --on local"
        return [Check("error", "torch", "the config's host has a GPU, and this machine has none", fix, value)]
    if not cards:
        return [Check("good", "torch", version, value=value)]
    if cuda is None:
        message = f"torch {version} is built without CUDA, and does not use the {cards[0].name}"
        return [Check(level, "torch", message, _setup(project, "--device cuda"), value)]
    first, driver = _FIRST_DRIVERS.get(int(cuda.partition(".")[0])), cards[0].driver.partition(".")[0]
    if first and driver.isdigit() and int(driver) < first:
        message = f"the NVIDIA driver {cards[0].driver} is too old for torch {version} (CUDA {cuda})"
        return [
            Check(level, "torch", message, f"install driver {first} or newer: https://www.nvidia.com/drivers", value)
        ]
    return [Check("good", "torch", f"{version} with CUDA {cuda}", value=value)]


def _cuda_of_torch() -> str | None:
    """Return the CUDA version that torch is built with, from torch/version.py; None for a build without it."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return None
    with suppress(OSError):
        text = Path(spec.origin).with_name("version.py").read_text(encoding="utf-8")
        match = re.search(r"^cuda\b[^=]*= *['\"]([\d.]+)", text, re.MULTILINE)
        return match[1] if match else None
    return None


def flavors() -> Check:
    """Return the installed flavor of ONNX Runtime; two overwrite each other's files."""
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


def _setup(project: ProjectFolder | Path, arguments: str = "") -> str:
    """Return the command that installs the libraries of a project, to be copied."""
    command = f"{setup_command()} {arguments}".rstrip()
    return f'cd "{project.root}" && {command}' if isinstance(project, ProjectFolder) else command
