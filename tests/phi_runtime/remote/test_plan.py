"""From a workflow to a job: its name, inputs and steps."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from phi_runtime.core.errors import UsageError
from phi_runtime.core.project import ProjectFolder, find_project
from phi_runtime.pipeline.load import load_workflow
from phi_runtime.remote.job import Environment, Machines, RemoteJob, Step
from phi_runtime.remote.plan import plan_job

MACHINES = Machines("gpu-cluster", "gpu", processes=2)
STEP = Step("run", ("run", "--until", "merge"), ("finetune", "merge"), MACHINES, Environment("image:1"))
STORE = {"type": "azureml_datastore", "datastore_name": "workspaceblobstore", "relative_path": "data/train.json"}


def job_of(project: ProjectFolder, *steps: Step, **options: Any) -> RemoteJob:
    return plan_job(project, load_workflow(project.config), steps or (STEP,), **options)


def edit(project: ProjectFolder, change: Any) -> None:
    config = json.loads(project.config.read_text())
    change(config)
    project.config.write_text(json.dumps(config))


def use_datastore(config: dict[str, Any]) -> None:
    machine = {"accelerators": [{"device": "gpu", "execution_providers": ["CUDAExecutionProvider"]}]}
    config["systems"] = {"aml": {"type": "AzureML", "aml_compute": "gpu-cluster", **machine}}
    config["host"] = config["target"] = "aml"
    config["azureml_client"] = {"subscription_id": "11111111-2222-3333-4444-555555555555"}
    config["azureml_client"] |= {"resource_group": "rg", "workspace_name": "ws"}
    config["data_configs"][0]["load_dataset_config"]["data_files"] = STORE


def test_the_same_work_has_the_same_name_wherever_it_is_sent_from(
    remote_project: ProjectFolder, tmp_path: Path
) -> None:
    job = job_of(remote_project)
    (tmp_path / "other").mkdir()
    moved = remote_project.root.rename(tmp_path / "other" / "tiny")
    assert job_of(find_project(moved)).name == job.name
    assert job.name.startswith("phi-tiny-")
    assert len(job.name) == len("phi-tiny-") + 12


@pytest.mark.parametrize(
    "step",
    [
        replace(STEP, arguments=("run",)),
        replace(STEP, machines=replace(MACHINES, count=2)),
        replace(STEP, environment=Environment("image:2")),
    ],
)
def test_other_work_has_another_name(remote_project: ProjectFolder, step: Step) -> None:
    assert job_of(remote_project, step).name != job_of(remote_project).name


def test_changed_data_is_other_work(remote_project: ProjectFolder) -> None:
    name = job_of(remote_project).name
    with (remote_project.root / "datasets" / "train.jsonl").open("a") as file:
        file.write('{"phrase": "more", "tone": "joy"}\n')
    assert job_of(remote_project).name != name


def test_changed_data_that_is_uploaded_is_other_work(remote_project: ProjectFolder) -> None:
    name = job_of(remote_project, upload=True).name
    with (remote_project.root / "datasets" / "train.jsonl").open("a") as file:
        file.write('{"phrase": "more", "tone": "joy"}\n')
    assert job_of(remote_project, upload=True).name != name


def test_a_changed_conda_file_of_the_user_is_other_work(remote_project: ProjectFolder) -> None:
    files: list[dict[str, Any]] = [{"dependencies": [f"torch=={version}"]} for version in ("2.12.0", "2.13.0")]
    steps = [replace(STEP, environment=Environment("image:1", conda=file)) for file in files]
    assert job_of(remote_project, steps[0]).name != job_of(remote_project, steps[1]).name


def test_a_changed_dockerfile_or_file_next_to_it_is_other_work(
    remote_project: ProjectFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = remote_project.root / "image"
    (context / "gen-model").mkdir(parents=True)
    step = replace(STEP, environment=Environment(build=(context, "Dockerfile")))
    names = {job_of(remote_project, step).name}
    for file in ("Dockerfile", "packages.txt"):
        (context / file).write_text(file)
        names.add(job_of(remote_project, step).name)
    assert len(names) == 3
    monkeypatch.setattr("phi_runtime.config.file_search.MOST_FILES", 20)
    for number in range(20):
        (context / "gen-model" / f"output-{number}").write_text("of a run")
    assert job_of(remote_project, step).name in names  # no other work, and not too many files


def test_several_processes_are_an_argument_of_the_command(remote_project: ProjectFolder) -> None:
    (step,) = job_of(remote_project).steps
    assert step.arguments == ("run", "--until", "merge", "--nproc", "2")


def test_later_steps_start_from_the_one_before(remote_project: ProjectFolder) -> None:
    job = job_of(remote_project, STEP, replace(STEP, name="build", arguments=("run", "export")))
    assert [(step.name, step.after) for step in job.steps] == [("run", ""), ("build", "run")]


def test_a_datastore_is_an_input_with_its_place_in_model_cache(remote_project: ProjectFolder) -> None:
    edit(remote_project, use_datastore)
    job = job_of(remote_project)
    (data,) = job.inputs
    assert data.address == "azureml://datastores/workspaceblobstore/paths/data/train.json"
    assert data.place.startswith("model-cache/datasets/azureml-")
    assert data.place.endswith("-train.json")
    assert "datasets/train.jsonl" not in job.snapshot.digests


def test_uploaded_data_is_an_input_and_not_in_the_snapshot(remote_project: ProjectFolder) -> None:
    job = job_of(remote_project, upload=True)
    (data,) = job.inputs
    assert (data.place, data.local) == ("datasets/train.jsonl", remote_project.root / "datasets" / "train.jsonl")
    assert "datasets/train.jsonl" not in job.snapshot.digests


def test_a_model_of_a_registry_is_an_input(remote_project: ProjectFolder) -> None:
    model = {
        "type": "azureml_registry_model",
        "registry_name": "azureml",
        "name": "microsoft/Phi-3-mini-4k-instruct",
        "version": "11",
    }
    edit(remote_project, lambda config: config["input_model"].update(model_path=model))
    (base,) = job_of(remote_project).inputs
    assert base.address == "azureml://registries/azureml/models/Phi-3-mini-4k-instruct/versions/11"
    assert base.place == "model-cache/microsoft/Phi-3-mini-4k-instruct"


def test_a_model_of_the_workspace_is_an_input(remote_project: ProjectFolder) -> None:
    edit(remote_project, use_datastore)
    model = {"type": "azureml_model", "config": {"azureml_client": {}, "name": "my-phi", "version": 3}}
    changed = {"type": "PyTorchModel", "config": {"model_path": model, "model_file_format": "PyTorch.MLflow"}}
    edit(remote_project, lambda config: config.update(input_model=changed))
    (base,) = (each for each in job_of(remote_project).inputs if each.name == "base_model")
    assert (base.kind, base.address, base.place) == ("mlflow", "azureml:my-phi:3", "model-cache/my-phi")


def test_a_model_of_this_machine_needs_upload(remote_project: ProjectFolder) -> None:
    folder = remote_project.root / "my-model"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "llama", "architectures": ["LlamaForCausalLM"]}')
    edit(remote_project, lambda config: config["input_model"].update(model_path="../my-model"))
    with pytest.raises(UsageError) as failure:
        job_of(remote_project)
    assert "--upload" in failure.value.fix
    (_, base) = job_of(remote_project, upload=True).inputs
    assert (base.kind, base.place, base.local) == ("folder", "my-model", folder)
