"""The YAML of Azure ML, its environment, and what is refused before anything is sent. No client is needed."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from phi_runtime.config.diagnostics import Finding
from phi_runtime.config.schema import canonical
from phi_runtime.core.errors import MissingDependency, UsageError
from phi_runtime.core.project import ProjectFolder
from phi_runtime.pipeline.load import check_file, load_workflow
from phi_runtime.remote.azureml.build import AzureMLJob, azureml_job
from phi_runtime.remote.azureml.engine import AzureML
from phi_runtime.remote.azureml.render import render
from phi_runtime.remote.azureml.sign_in import half_set
from phi_runtime.remote.azureml.systems import Workspace
from phi_runtime.remote.plan import find_attempt
from phi_runtime.remote.requirements import why_not_installable
from phi_runtime.remote.snapshot import SnapshotFile
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
    command = {"on": "azureml", "selection": ["finetune"], "stages": ["fetch", "finetune"], "arguments": ["--json"]}
    return azureml_job(project, workflow, **{**command, "package": package, "template_setup": SETUP, **options})


def document(project: ProjectFolder, **options: Any) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(render(planned(project, **options).job)["job.yaml"])
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


def test_a_tag_such_as_on_is_text_for_readers_of_yaml_1_1_too(azure_project: ProjectFolder) -> None:
    tags = {"live": "on", "y": "12:30:00"}
    edit(azure_project, {"tags": tags})
    assert document(azure_project)["tags"].items() >= tags.items()


def test_every_input_and_output_of_the_command_is_declared(azure_project: ProjectFolder) -> None:
    job = document(azure_project)
    used = {part.partition("}}")[0] for part in job["command"].split("${{")[1:]}
    assert used == {"inputs.train_data", "outputs.gen_model"}


def test_a_job_has_the_address_of_the_token_only(azure_project: ProjectFolder) -> None:
    job = document(azure_project)
    assert job["environment_variables"]["PHI_HF_SECRET"] == "https://vault.vault.azure.net/secrets/hf-token"
    assert job["identity"] == {"type": "managed"}


def test_the_environment_has_exact_versions_with_hashes(azure_project: ProjectFolder) -> None:
    conda = yaml.safe_load(render(planned(azure_project).job)["conda.yaml"])
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
    assert yaml.safe_load(render(result.job)["conda.yaml"]) == conda


BUILD: dict[str, Any] = {**SYSTEM, "aml_compute": "cpu-cluster", "instance_count": 1, "hf_token": None}
BUILD |= {"resources": None, "accelerators": [{"device": "cpu", "execution_providers": ["CPUExecutionProvider"]}]}


@pytest.fixture
def two_systems(azure_project: ProjectFolder) -> ProjectFolder:
    """A config that trains on one system and builds on another."""
    return change(azure_project, use_two_systems)


def use_two_systems(config: dict[str, Any]) -> None:
    config["systems"]["build"] = dict(BUILD)
    config["passes"]["export"]["host"] = "build"


def change(project: ProjectFolder, edit: Callable[[dict[str, Any]], None]) -> ProjectFolder:
    config = json.loads(project.config.read_text())
    edit(config)
    project.config.write_text(json.dumps(config, indent=1))
    return project


ALL = {"selection": [], "stages": ["fetch", "finetune", "merge", "export", "evaluate"]}


def test_passes_on_several_systems_are_a_pipeline(two_systems: ProjectFolder) -> None:
    assert errors(two_systems) == []
    job = document(two_systems, **ALL)
    train, build = job["jobs"]["finetune"], job["jobs"]["export"]
    assert (job["type"], train["compute"], build["compute"]) == (
        "pipeline",
        "azureml:gpu-cluster",
        "azureml:cpu-cluster",
    )
    assert train["command"].endswith("-- run fetch finetune merge --json")
    assert build["command"].endswith("-- run export evaluate --json --set host=build")
    assert build["inputs"]["gen_model_of_step_before"] == "${{parent.jobs.finetune.outputs.gen_model}}"
    assert build["outputs"]["gen_model"] == "${{parent.outputs.gen_model}}"
    assert (train["environment"]["conda_file"], build["environment"]["conda_file"]) == (
        "conda-finetune.yaml",
        "conda-export.yaml",
    )


def test_only_the_steps_of_systems_with_a_token_read_one(two_systems: ProjectFolder) -> None:
    train, build = document(two_systems, **ALL)["jobs"].values()
    assert ("identity" in train, "identity" in build) == (True, False)
    assert "PHI_HF_SECRET" not in build["environment_variables"]


def test_stages_of_one_system_are_no_pipeline(two_systems: ProjectFolder) -> None:
    job = document(two_systems)
    assert (job["type"], job["compute"]) == ("command", "azureml:gpu-cluster")
    assert job["command"].endswith("-- run finetune --json")


def test_a_system_that_the_command_names_runs_all_passes(two_systems: ProjectFolder) -> None:
    job = document(two_systems, on="build", **ALL)
    assert (job["type"], job["compute"]) == ("command", "azureml:cpu-cluster")
    assert job["command"].endswith("-- run --json --set host=build")


def test_a_pipeline_is_in_one_workspace(two_systems: ProjectFolder) -> None:
    other = {**CLIENT, "workspace_name": "other"}
    change(two_systems, lambda config: config["systems"]["build"].update(azureml_client_config=other))
    with pytest.raises(UsageError, match="different workspaces"):
        planned(two_systems, **ALL)


def test_a_step_without_a_token_is_a_warning_if_another_has_one(two_systems: ProjectFolder) -> None:
    (warning,) = (f for f in check_file(two_systems.config).findings if f.rule == "azureml")
    assert (warning.key, warning.severity) == ("systems.build", "warning")


def test_what_would_fail_on_the_system_of_one_pass_is_an_error_too(two_systems: ProjectFolder) -> None:
    change(two_systems, lambda config: config["systems"]["build"].update(aml_compute="Your Compute"))
    (error,) = errors(two_systems)
    assert (error.key, error.rule) == ("systems.build.aml_compute", "placeholder")


def test_a_pass_of_this_machine_is_in_no_job(two_systems: ProjectFolder, cli: Cli) -> None:
    local = {"type": "LocalSystem", "accelerators": BUILD["accelerators"]}
    change(two_systems, lambda config: config["systems"].update(here=local))
    change(two_systems, lambda config: config.update(host="here"))
    loaded = check_file(two_systems.config)
    assert [finding.key for finding in loaded.findings if finding.rule == "azureml-host"] == ["passes.export.host"]
    done = cli("run", "--dry-run", "--trust-project", "--project", two_systems.root)
    assert (done.code, "`finetune` runs on this machine" in done.err) == (2, True)


def test_the_system_of_a_pass_is_not_part_of_its_result(two_systems: ProjectFolder) -> None:
    workflow = load_workflow(two_systems.config)
    assert workflow.host_of("export") == "build"
    assert "host" not in canonical(workflow.passes["export"])


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


def test_a_job_is_submitted_in_the_environment_that_has_the_client(
    azure_project: ProjectFolder, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[Path] = []
    monkeypatch.setattr("phi_scaffold.environment._hand_over", started.append)  # it would not return
    monkeypatch.setitem(sys.modules, "azure", None)
    done = cli("run", "--trust-project", "--project", azure_project.root)
    assert started == [azure_project.root / ".venv" / "bin" / "python"]
    assert (done.code, "--with azure" in done.err) == (5, True)


def test_a_job_that_runs_or_is_done_is_not_submitted_again(azure_project: ProjectFolder) -> None:
    job = planned(azure_project).job
    for state in ("queued", "running", "done"):
        attempt, status = find_attempt(FakeEngine(jobs={job.name: [state]}), job)
        assert (attempt.name, status is not None) == (job.name, True)


def test_a_failed_job_is_submitted_under_another_name(azure_project: ProjectFolder) -> None:
    job = planned(azure_project).job
    attempt, status = find_attempt(FakeEngine(jobs={job.name: ["failed"], f"{job.name}-2": ["canceled"]}), job)
    assert (attempt.name, status) == (f"{job.name}-3", None)


def test_another_attempt_uses_the_data_that_the_first_has_uploaded(azure_project: ProjectFolder) -> None:
    local = {"load_dataset_config": {"data_name": "json", "data_files": "../datasets/train.jsonl"}}
    change(azure_project, lambda config: config["data_configs"][0].update(local))
    job = planned(azure_project, upload=True).job
    assert job.inputs[0].local is not None
    attempt, _ = find_attempt(FakeEngine(jobs={job.name: ["failed"]}), job)
    addresses = [yaml.safe_load(render(each)["job.yaml"])["inputs"]["train_data"]["path"] for each in (job, attempt)]
    assert addresses[0] == addresses[1]
    assert addresses[0].startswith("azureml:phi-tiny-train-data:")


def test_force_submits_work_again_that_is_done(azure_project: ProjectFolder) -> None:
    job = planned(azure_project).job
    assert find_attempt(FakeEngine(jobs={job.name: ["done"]}), job, again=True)[0].name == f"{job.name}-2"


def test_each_request_without_the_client_is_one_error_with_its_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("azure", "azure.core", "azure.storage", "azure.storage.blob"):
        monkeypatch.setitem(sys.modules, module, None)
    engine = AzureML(Workspace("subscription", "group", "name"), print)
    for request in (engine.status, engine.outputs, lambda name: next(engine.logs(name, {}))):
        with pytest.raises(MissingDependency, match="not installed"):
            request("job")


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
