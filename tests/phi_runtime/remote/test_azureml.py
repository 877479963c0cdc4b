"""The YAML of Azure ML, its environment, and what is refused before anything is sent. No client is needed."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from phi_runtime.config.diagnostics import Finding
from phi_runtime.core.project import ProjectFolder
from phi_runtime.pipeline.load import check_file, load_workflow
from phi_runtime.remote.azureml.build import AzureMLJob, azureml_job
from phi_runtime.remote.azureml.render import render
from phi_runtime.remote.azureml.sign_in import half_set
from phi_runtime.remote.requirements import why_not_installable
from phi_runtime.remote.snapshot import SnapshotFile
from phi_runtime.remote.submit import find_attempt
from tests.conftest import Cli
from tests.phi_runtime.remote.fake_engine import FakeEngine

SETUP = Path(__file__).parents[3] / "template" / "setup"
CLIENT = {
    "subscription_id": "11111111-2222-3333-4444-555555555555",
    "resource_group": "rg",
    "workspace_name": "ws",
    "keyvault_name": "vault",
}
SYSTEM: dict[str, Any] = {
    "type": "AzureML",
    "accelerators": [{"device": "gpu", "execution_providers": ["CUDAExecutionProvider"]}],
    "aml_compute": "gpu-cluster",
    "hf_token": True,
    "instance_count": 2,
    "tags": {"team": "nlp"},
    "resources": {"instance_type": "large"},
}
STORE = {"type": "azureml_datastore", "datastore_name": "workspaceblobstore", "relative_path": "data/train.json"}


@pytest.fixture
def azure_project(remote_project: ProjectFolder) -> ProjectFolder:
    return edit(remote_project)


def edit(project: ProjectFolder, system: dict[str, Any] | None = None, **client: Any) -> ProjectFolder:
    config = json.loads(project.config.read_text())
    config["azureml_client"] = {**CLIENT, **client}
    config["systems"] = {"aml": {**SYSTEM, **(system or {})}}
    config["host"] = config["target"] = "aml"
    config["data_configs"][0]["load_dataset_config"]["data_files"] = STORE
    project.config.write_text(json.dumps(config, indent=1))
    return project


def planned(project: ProjectFolder, **options: Any) -> AzureMLJob:
    workflow = load_workflow(project.config)
    package = SnapshotFile("phi-scaffold.tar.xz", content=b"x")
    command = {"on": "azureml", "arguments": ["run", "--json"], "stages": ["fetch", "finetune"]}
    return azureml_job(project, workflow, **{**command, "package": package, "template_setup": SETUP, **options})


def document(project: ProjectFolder, **options: Any) -> dict[str, Any]:
    loaded: dict[str, Any] = YAML(typ="safe").load(render(planned(project, **options).job)["job.yaml"])
    return loaded


def errors(project: ProjectFolder) -> list[Finding]:
    return [finding for finding in check_file(project.config).findings if finding.severity == "error"]


def test_a_command_job_has_all_that_its_system_says(azure_project: ProjectFolder) -> None:
    job = document(azure_project, timeout_s=7200)
    assert (job["type"], job["compute"], job["code"]) == ("command", "azureml:gpu-cluster", "snapshot")
    assert job["resources"] == {"instance_count": 2, "instance_type": "large"}
    assert job["distribution"] == {"type": "pytorch", "process_count_per_instance": 1}
    assert job["limits"] == {"timeout": 7200}
    assert job["tags"]["team"] == "nlp"
    assert job["inputs"]["train_data"]["path"] == "azureml://datastores/workspaceblobstore/paths/data/train.json"
    assert job["outputs"]["gen_model"]["path"].endswith(f"/paths/phi-scaffold/{job['name']}/gen_model/")


def test_every_input_and_output_of_the_command_is_declared(azure_project: ProjectFolder) -> None:
    job = document(azure_project)
    used = {part.partition("}}")[0] for part in job["command"].split("${{")[1:]}
    assert used == {"inputs.train_data", "outputs.gen_model"}


def test_a_job_has_the_address_of_the_token_only(azure_project: ProjectFolder) -> None:
    job = document(azure_project)
    assert job["environment_variables"]["PHI_HF_SECRET"] == "https://vault.vault.azure.net/secrets/hf-token"
    assert job["identity"] == {"type": "managed"}


def test_the_environment_has_exact_versions_with_hashes(azure_project: ProjectFolder) -> None:
    conda = YAML(typ="safe").load(render(planned(azure_project).job)["conda.yaml"])
    (pip,) = (entry["pip"] for entry in conda["dependencies"] if isinstance(entry, dict))
    assert conda["channels"] == ["conda-forge"]
    assert [line for line in pip if "==" not in line or "--hash=sha256:" not in line] == []
    names = {line.partition("==")[0] for line in pip}
    assert {"torch", "transformers", "peft", "onnxruntime-genai-cuda", "azure-keyvault-secrets"} <= names


def test_a_conda_file_that_cannot_be_installed_is_replaced_with_its_reasons(azure_project: ProjectFolder) -> None:
    lines = ["torch>=2.2.0", "git+https://github.com/microsoft/Olive@jiapli/mlflow_loading_fix#egg=olive-ai[gpu]"]
    conda = {"channels": ["defaults"], "dependencies": ["python=3.8.13", {"pip": lines}]}
    (azure_project.config.parent / "conda.yaml").write_text(json.dumps(conda))
    edit(azure_project, {"aml_docker_config": {"base_image": "mcr.microsoft.com/x:1", "conda_file_path": "conda.yaml"}})
    (note,) = planned(azure_project).notes
    assert len(why_not_installable(conda)) == 4
    assert all(word in note for word in ("3.8", "no exact version", "github.com/microsoft/Olive"))
    assert document(azure_project)["environment"] == {"image": "mcr.microsoft.com/x:1", "conda_file": "conda.yaml"}


def test_a_conda_file_with_exact_versions_is_used(azure_project: ProjectFolder) -> None:
    conda = {"dependencies": ["python=3.12", {"pip": ["torch==2.13.0", "transformers==5.23.0", "peft==0.21.2"]}]}
    (azure_project.config.parent / "conda.yaml").write_text(json.dumps(conda))
    edit(azure_project, {"aml_docker_config": {"conda_file_path": "conda.yaml"}})
    result = planned(azure_project)
    assert result.notes == ()
    assert YAML(typ="safe").load(render(result.job)["conda.yaml"]) == conda


@pytest.mark.parametrize(
    ("system", "client", "key"),
    [
        ({"aml_compute": "Your Azure ML Compute Cluster"}, {}, "systems.aml.aml_compute"),
        ({"aml_compute": "<cluster>"}, {}, "systems.aml.aml_compute"),
        ({"aml_compute": "gpu cluster"}, {}, "systems.aml.aml_compute"),
        ({}, {"subscription_id": "Your Azure Subscrition ID"}, "azureml_client.subscription_id"),
        ({}, {"subscription_id": "{subscription}"}, "azureml_client.subscription_id"),
        ({}, {"subscription_id": "mine"}, "azureml_client.subscription_id"),
        ({}, {"workspace_name": None}, "azureml_client"),
        ({}, {"default_auth_params": {"client_secret": "CANARY"}}, "azureml_client.default_auth_params.client_secret"),
        ({"aml_docker_config": {"conda_file_path": "no.yaml"}}, {}, "systems.aml.aml_docker_config.conda_file_path"),
    ],
)
def test_what_would_fail_at_azure_is_an_error_with_its_place(
    azure_project: ProjectFolder, system: dict[str, Any], client: dict[str, Any], key: str
) -> None:
    edit(azure_project, system, **client)
    (error,) = errors(azure_project)
    assert (error.key, error.where.line > 1) == (key, True)


def test_placeholders_end_run_before_anything_is_sent(azure_project: ProjectFolder, cli: Cli) -> None:
    edit(azure_project, {"aml_compute": "Your Compute"})
    assert cli("run", "--on", "azureml", "--trust-project", "--project", azure_project.root).code == 3
    assert not (azure_project.gen_model / "remote").exists()


def test_a_dry_run_prints_the_job_without_azure(
    azure_project: ProjectFolder, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("azure", "azure.ai", "azure.identity"):
        monkeypatch.setitem(sys.modules, module, None)
    result = cli("run", "--dry-run", "--json", "--trust-project", "--project", azure_project.root)
    shown = json.loads(result.out)
    assert (result.code, set(shown["files"])) == (0, {"job.yaml", "conda.yaml"})
    assert len(shown["snapshot"]) <= 20
    assert "CANARY" not in result.out + result.err


def test_a_job_that_runs_or_is_done_is_not_submitted_again(azure_project: ProjectFolder) -> None:
    job = planned(azure_project).job
    for state in ("queued", "running", "done"):
        attempt = find_attempt(FakeEngine(jobs={job.name: [state]}), job)
        assert (attempt.job.name, attempt.status is not None) == (job.name, True)


def test_a_failed_job_is_submitted_under_another_name(azure_project: ProjectFolder) -> None:
    job = planned(azure_project).job
    attempt = find_attempt(FakeEngine(jobs={job.name: ["failed"], f"{job.name}-2": ["canceled"]}), job)
    assert (attempt.job.name, attempt.status) == (f"{job.name}-3", None)


def test_force_submits_work_again_that_is_done(azure_project: ProjectFolder) -> None:
    job = planned(azure_project).job
    assert find_attempt(FakeEngine(jobs={job.name: ["done"]}), job, again=True).job.name == f"{job.name}-2"


@pytest.mark.parametrize(
    ("variables", "missing"),
    [
        ({"AZURE_TENANT_ID": "t", "AZURE_CLIENT_ID": "c"}, "AZURE_CLIENT_SECRET"),
        ({"AZURE_CLIENT_ID": "c", "AZURE_CLIENT_SECRET": "CANARY"}, "AZURE_TENANT_ID"),
        ({"AZURE_TENANT_ID": "t", "AZURE_CLIENT_ID": "c", "AZURE_CLIENT_SECRET": "CANARY"}, ""),
        ({"AZURE_CLIENT_ID": "c"}, ""),
        ({"AZURE_TENANT_ID": "t"}, ""),
        ({}, ""),
    ],
)
def test_variables_that_are_half_set_are_named(variables: dict[str, str], missing: str) -> None:
    warning = half_set(variables)
    assert warning.endswith(missing)
    assert bool(warning) == bool(missing)
    assert "CANARY" not in warning
