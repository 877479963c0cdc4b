"""An adapter that exists already (`input_model.adapter_path`) is the start of the chain: merged, exported, measured, trained."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from phi_runtime.config.pass_graph import INPUT_ADAPTER
from phi_runtime.core.project import ProjectFolder
from phi_runtime.pipeline.engine import run
from tests.conftest import Cli, Listener, MakeProject, edit_config, states

Change = Callable[[dict[str, Any]], None]


def without_training(adapter: Path, *, data: bool = True) -> Change:
    """A config that merges and exports the adapter."""

    def change(config: dict[str, Any]) -> None:
        config["input_model"]["adapter_path"] = str(adapter)
        config["passes"].pop("finetune")
        if not data:
            config["data_configs"] = []

    return change


@pytest.fixture
def trained(trained_project: MakeProject) -> ProjectFolder:
    """A project that has trained, merged and exported an adapter."""
    return trained_project("trained")


@pytest.fixture
def moved(trained: ProjectFolder, tmp_path: Path) -> Path:
    """Its adapter, elsewhere."""
    return Path(shutil.copytree(trained.gen_model / "adapter", tmp_path / "elsewhere" / "tone"))


def test_an_adapter_trained_here_and_moved_gives_what_the_chain_that_trained_it_gave(
    trained: ProjectFolder, moved: Path, make_project: MakeProject, cli: Cli
) -> None:
    project = make_project("tiny")
    edit_config(project, without_training(moved))
    outcome = run(project, Listener())
    assert outcome.done == (INPUT_ADAPTER, "merge", "export", "evaluate")
    for name in ("adapter", "merged", "onnx"):
        ours, theirs = project.gen_model / name, trained.gen_model / name
        for file in sorted(theirs.rglob("*")):
            if file.suffix in (".safetensors", ".onnx", ".data") or file.name in (
                "tokenizer.json",
                "prompt_template.json",
            ):
                assert (ours / file.relative_to(theirs)).read_bytes() == file.read_bytes(), file
    assert outcome.evaluation is not None
    assert [model["name"] for model in outcome.evaluation["models"]] == ["base", "adapter", "merged", "onnx-int4"]
    assert outcome.evaluation["rows"] == 60  # nothing is trained, so all rows are test rows
    assert set(states(project).values()) == {"cached"}
    assert run(project, Listener()).done == ()
    answer = cli("generate", "--project", project.root, "--model", "adapter", "--prompt", "a lovely party 3", "--json")
    assert answer.code == 0, answer.err

    edit_json = json.loads((moved / "adapter_config.json").read_text(encoding="utf-8"))
    (moved / "adapter_config.json").write_text(json.dumps({**edit_json, "lora_alpha": 99}), encoding="utf-8")
    after = states(project)
    assert after[INPUT_ADAPTER] == "stale"
    assert after["merge"] == "stale"
