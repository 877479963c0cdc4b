"""The registry of pass types: a config loads those that it names."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from phi_runtime.config.schema import Workflow
from phi_runtime.config.schema.registry import pass_type, pass_types
from tests.conftest import MakeProject

LOAD = """
import importlib.metadata, sys
from pathlib import Path
from phi_runtime.pipeline.load import load_workflow

def recorded(original=importlib.metadata.entry_points, **selection):
    assert selection["group"] != "phi_scaffold.passes"
    return original(**selection)

importlib.metadata.entry_points = recorded
load_workflow(Path(sys.argv[1]))
print(*(name.rpartition(".")[2] for name in sys.modules if name.startswith("phi_runtime.passes.")))
"""


def loaded(config: Path) -> set[str]:
    """Return the modules of passes that a new process imports to load `config`."""
    done = subprocess.run([sys.executable, "-c", LOAD, config], capture_output=True, text=True, check=True, timeout=60)
    return set(done.stdout.split())


@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_config_imports_the_passes_that_it_names(method: str, make_project: MakeProject) -> None:
    project = make_project(method=method)
    named = {"lora": {"lora", "merge_adapter_weights"}, "full": {"full_finetune"}}[method]
    assert loaded(project.config) == {"input_adapter", "model_builder", *named}


@pytest.mark.parametrize("name", pass_types())
def test_the_module_of_a_pass_has_its_name(name: str) -> None:
    cls = pass_type(name)
    assert cls is pass_types()[name]
    assert cls.__module__ == f"phi_runtime.passes.{cls.__module__.rpartition('.')[2]}"
    assert cls.__module__.rpartition(".")[2].replace("_", "") == name.casefold()


@pytest.mark.parametrize("name", ["lora", "Prunee", "", None, 3, ["LoRA"]])
def test_what_is_no_type_has_no_class(name: object) -> None:
    assert pass_type(name) is None


def test_a_pass_of_a_workflow_is_kept_as_it_is() -> None:
    step = pass_types()["LoRA"].model_validate({"type": "LoRA", "train_data_config": "train"})
    system = {
        "type": "LocalSystem",
        "accelerators": [{"device": "cpu", "execution_providers": ["CPUExecutionProvider"]}],
    }
    workflow = Workflow.model_validate(
        {
            "input_model": {"type": "HfModel", "model_path": "m"},
            "systems": {"here": system},
            "passes": {"finetune": step},
            "host": "here",
            "target": "here",
        }
    )
    assert workflow.passes["finetune"] is step
