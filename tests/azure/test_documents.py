"""Configs of public documents: filled in, they train on Azure ML; as they are, each placeholder is an error."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from tests.azure.projects import CLIENT, DOCUMENTED, ROWS, Shell, documented_project, only_job, rows
from tests.azure.standin import Cloud
from tests.phi_runtime.pipeline.test_fetch import HubServer

pytestmark = [pytest.mark.azure, pytest.mark.timeout(1800)]
PHI_3 = "microsoft/Phi-3-mini-4k-instruct"


@pytest.mark.parametrize("name", DOCUMENTED)
def test_a_documented_config_trains_once_it_is_filled_in(
    name: str,
    shell: Shell,
    cloud: Cloud,
    hub: HubServer,
    tiny_phi3: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(hub, "name", PHI_3)
    cloud.put("azureml-blobstore", ROWS, rows())
    cloud.registry["azureml-msr", "Phi-3-mini-4k-instruct", "11"] = as_mlflow(tiny_phi3, tmp_path / "mlflow")
    project = documented_project(tmp_path / "p", name)
    last = "merge_adapter_weights" if name == "azureml-qlora" else "builder"
    training = name.removeprefix("azureml-").removeprefix("registry-")
    done = shell.run(project, "run", "--until", last, "--set", f"passes.{training}.max_steps=1")
    assert done.code == 0, done.err
    assert (project / "gen-model" / ("merged" if name == "azureml-qlora" else "onnx") / "manifest.json").is_file()


def as_mlflow(model: Path, folder: Path) -> Path:
    """Copy a model into `folder` in the format of MLflow."""
    shutil.copytree(model, folder / "model")
    (folder / "components" / "tokenizer").mkdir(parents=True)
    for file in [*(folder / "model").glob("tokenizer*"), *(folder / "model").glob("*.jinja")]:
        file.rename(folder / "components" / "tokenizer" / file.name)
    (folder / "MLmodel").write_text("flavors:\n  transformers: {}\n", encoding="utf-8")
    return folder


@pytest.mark.parametrize("name", DOCUMENTED)
def test_each_placeholder_of_a_documented_config_is_an_error_before_any_request(
    name: str, shell: Shell, cloud: Cloud, tmp_path: Path
) -> None:
    project = documented_project(tmp_path / "p", name, filled=False)
    text = (project / "fine-tuning/olive-config.json").read_text(encoding="utf-8").splitlines()
    placeholders = {number for number, line in enumerate(text, 1) if '"Your ' in line}
    first, last = (
        next(n for n, line in enumerate(text, 1) if key in line) for key in ('"azure_arc"', '"data_configs"')
    )
    unused = placeholders & set(range(first, last))  # of a system that the host is not: warnings
    run, checked = shell.run(project, "run"), shell.run(project, "validate")
    assert (run.code, checked.code) == (3, 3)
    assert named_lines(run.err) & placeholders == placeholders - unused
    assert placeholders <= named_lines(checked.out + checked.err)
    assert cloud.requests == []


def named_lines(text: str) -> set[int]:
    return {int(line) for line in re.findall(r"olive-config\.json:(\d+):", text)}


def test_a_documented_config_of_this_machine_trains_on_azureml_with_on(
    shell: Shell, cloud: Cloud, hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "name", "microsoft/phi-3-mini")
    project = documented_project(tmp_path / "p", "local-lora")
    data = project / "fine-tuning" / "dataset" / "dataset-classification.json"
    data.parent.mkdir()
    data.write_bytes(b"".join(json.dumps({"phrase": f"day {n}", "tone": "joy"}).encode() + b"\n" for n in range(40)))
    path = project / "fine-tuning" / "olive-config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    system = {"type": "AzureML", "aml_compute": "gpu-cluster", "accelerators": [{"device": "cpu"}], "hf_token": True}
    config["systems"]["aml"] = system
    path.write_text(json.dumps({**config, "azureml_client": CLIENT}), encoding="utf-8")
    done = shell.run(project, "run", "--on", "aml", "--until", "lora", "--set", "passes.lora.max_steps=1")
    assert done.code == 0, done.err
    assert "fine-tuning/dataset/dataset-classification.json" in cloud.snapshot(only_job(cloud))
    assert (project / "gen-model/adapter/manifest.json").is_file()
