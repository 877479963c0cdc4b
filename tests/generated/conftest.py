"""A project whose models are made, and its samples run as a user runs them."""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from filelock import FileLock

from phi_runtime.core.project import ProjectFolder, find_project
from phi_runtime.pipeline.engine import run
from tests.conftest import Listener, tiny_project
from tests.zygote import default_interrupt


@pytest.fixture(scope="session")
def made(tiny_phi3: Path, shared: Path) -> ProjectFolder:
    """A tiny model, tuned: as adapter, merged, as ONNX, and as the ONNX model of its base with the adapter next to it.

    It is made once for all of pytest's processes.
    """
    folder = shared / "a blank and pläces" / "my tiny"
    folder.parent.mkdir(exist_ok=True)
    with FileLock(folder.parent / "lock"):
        if not folder.exists():
            gate = {
                "max_kl": 100,
                "max_perplexity_increase": 1e6,
                "max_lost_answers": 1,
            }  # random weights do not bear 4 bits
            passes = {
                "finetune": {"int4_aware": False, "torch_dtype": "float32"},
                "export": {"gate": gate},
                "several": {"type": "ModelBuilder", "precision": "fp32", "adapters": ["finetune"]},
            }
            project = tiny_project(folder, talkative(tiny_phi3, folder.parent / "base"), passes=passes)
            run(project, Listener(), until="several")
    return find_project(folder)


def talkative(model: Path, folder: Path) -> Path:
    """The tiny model with larger weights: its answers depend on the prompt, to the last letter."""
    import torch
    from transformers import AutoModelForCausalLM

    shutil.copytree(model, folder)
    loaded = AutoModelForCausalLM.from_pretrained(model)
    with torch.no_grad():
        for name, values in loaded.named_parameters():
            values *= 3 if "embed" in name else 1 if values.ndim == 1 else 8
    loaded.save_pretrained(folder)
    return folder


def start(script: Path, *arguments: str | Path, cwd: Path, **environment: str) -> subprocess.Popen[str]:
    """Starts a sample as a process in the folder `cwd`. Ctrl-C reaches it, also where the tests run in the background."""
    clean = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "OPENAI_BASE_URL", "OPENAI_API_KEY")}
    return subprocess.Popen(
        [sys.executable, str(script), *map(str, arguments)],
        cwd=cwd,
        env=clean | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", **environment},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=default_interrupt,
    )


def ended(process: subprocess.Popen[str], said: str = "") -> tuple[int, str, str]:
    """How a sample that reads `said` ends: its exit code, its output, and its messages, among which is no traceback."""
    out, err = process.communicate(said, timeout=120)
    assert "Traceback" not in err
    return process.returncode, out, err


Ask = Callable[..., tuple[int, str, str]]


@pytest.fixture
def ask(made: ProjectFolder, tmp_path: Path) -> Ask:
    """Runs a sample of the made project from another folder."""

    def call(sample: str, *arguments: str | Path, said: str = "", **environment: str) -> tuple[int, str, str]:
        return ended(start(made.root / "inferences" / sample, *arguments, cwd=tmp_path, **environment), said)

    return call


@pytest.fixture
def sample(made: ProjectFolder, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], ModuleType]]:
    """Imports a sample of the made project into this process."""
    folder = made.root / "inferences"
    monkeypatch.syspath_prepend(folder)
    names = [file.stem for file in folder.glob("*.py")]
    yield importlib.import_module
    for name in names:
        sys.modules.pop(name, None)


def answer(chat: Any, text: str, sampling: Any, **how: Any) -> str:
    """The whole answer to `text`."""
    return "".join(chat.ask(chat.template.question(text), sampling, **how))
