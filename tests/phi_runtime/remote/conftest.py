from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from phi_runtime.core.project import ProjectFolder, find_project
from tests.factory import rendered


@pytest.fixture
def remote_project(tmp_path: Path) -> ProjectFolder:
    """A project with a model of the Hub, and with files that no job may get."""
    folder = tmp_path / "tiny"
    shutil.copytree(rendered("tiny", "lora", 60), folder)
    (folder / ".env").write_text("HF_TOKEN=hf_CANARY\n")
    for secret in (
        ".git/config",
        ".venv/bin/python",
        "model-cache/x/model.safetensors",
        "gen-model/adapter/a.bin",
        "notes.txt",
    ):
        (folder / secret).parent.mkdir(parents=True, exist_ok=True)
        (folder / secret).write_text("CANARY")
    return find_project(folder)
