"""Submissions through Azure's client: each fault ends well or in one error, and nothing is submitted twice."""

from __future__ import annotations

import json
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from tests.azure.projects import PUT_JOB, Shell, finished, leaks, only_job, tiny_project, wait_for_log
from tests.azure.standin import Cloud, Fault

pytestmark = [pytest.mark.azure, pytest.mark.timeout(1800)]

# Each fault of the submission on its own is in test_client.py.
SUBMISSION_FAULTS: dict[str, tuple[list[Fault], int, int]] = {
    "busy": ([Fault(PUT_JOB, 429, headers={"Retry-After": "1"}), Fault(PUT_JOB, 503)], 0, 1),
    "error, dropped, answer lost": ([Fault(PUT_JOB, 500), Fault(PUT_JOB, "drop"), Fault(PUT_JOB, "lose")], 0, 1),
    "no permission": ([Fault(PUT_JOB, 403, code="AuthorizationFailed")], 7, 0),
    "token refused": ([Fault(PUT_JOB, 401, code="InvalidAuthenticationToken")], 7, 0),
    "not found": ([Fault(PUT_JOB, 404, code="ResourceNotFound")], 7, 0),
    "upload not signed": ([Fault(r"^PUT .*blob.core", 403, times=9, code="AuthenticationFailed")], 7, 0),
    "unreachable": ([Fault(r"https://management", "drop", times=99)], 7, 0),
}


@pytest.mark.parametrize(("faults", "code", "jobs"), SUBMISSION_FAULTS.values(), ids=SUBMISSION_FAULTS)
def test_faults_of_the_submission_end_well_or_in_one_error(
    faults: list[Fault], code: int, jobs: int, shell: Shell, cloud: Cloud, tmp_path: Path
) -> None:
    cloud.has_machines = False
    cloud.faults.extend(map(replace, faults))
    done = shell.run(tiny_project(tmp_path / "tiny"), "run", "fetch", "--on", "azureml", "--detach")
    assert done.code == code, done.err
    assert sum(line.startswith("error: ") for line in done.err.splitlines()) == bool(code)
    assert len(cloud.jobs) == jobs
    assert "Traceback" not in done.err
    assert leaks(cloud, tmp_path, done) == []


def test_a_sign_in_that_is_refused_is_one_error(shell: Shell, cloud: Cloud, tmp_path: Path) -> None:
    cloud.client_secret = "another"
    done = shell.run(tiny_project(tmp_path / "tiny"), "run", "--on", "azureml", "--detach")
    assert done.code == 7
    assert "AADSTS7000215" in done.err
    assert cloud.jobs == {}


def test_variables_that_are_set_in_part_are_named(shell: Shell, cloud: Cloud, tmp_path: Path) -> None:
    done = shell.run(tiny_project(tmp_path / "tiny"), "run", "--on", "azureml", "--detach", AZURE_CLIENT_SECRET="")
    assert done.code == 7
    assert "AZURE_CLIENT_SECRET" in done.err
    assert cloud.jobs == {}


def test_a_device_code_is_the_last_way_to_sign_in(shell: Shell, cloud: Cloud, tmp_path: Path) -> None:
    cloud.has_machines = False
    nothing = dict.fromkeys(("AZURE_TENANT_ID", "AZURE_CLIENT_ID", "AZURE_CLIENT_SECRET", "CI"), "")
    done = shell.run(tiny_project(tmp_path / "tiny"), "run", "fetch", "--on", "azureml", "--detach", **nothing)
    assert done.code == 0, done.err
    assert "ABCD1234" in done.err
    assert len(cloud.jobs) == 1


def test_a_secret_that_the_identity_may_not_read_fails_the_job_with_its_name(
    shell: Shell, cloud: Cloud, tmp_path: Path
) -> None:
    cloud.faults.append(Fault("^GET .*vault.azure.net", 403, times=9, code="Forbidden"))
    done = shell.run(tiny_project(tmp_path / "tiny"), "run", "fetch", "--on", "azureml")
    assert done.code == 1
    assert "hf-token" in done.err
    assert only_job(cloud).status == "Failed"


def test_the_error_of_a_failed_job_is_the_last_one_of_its_run(shell: Shell, cloud: Cloud, tmp_path: Path) -> None:
    project = tiny_project(tmp_path / "tiny", device="gpu")  # the machines of the stand-in have none
    done = shell.run(project, "run", "finetune", "--on", "azureml")
    (error,) = (line for line in done.err.splitlines() if line.startswith("error: "))
    assert (done.code, only_job(cloud).status) == (5, "Failed")
    assert "GPU" in error


def test_ctrl_c_leaves_the_job_running_and_remote_cancels_it(shell: Shell, cloud: Cloud, tmp_path: Path) -> None:
    project = tiny_project(tmp_path / "tiny")
    settings = ("--set", "passes.finetune.training_args.max_steps=100000")
    process = shell.start(project, "run", "finetune", "--on", "azureml", *settings)
    job = wait_for_log(process, cloud, '"stage-started", "stage": "finetune"')
    os.kill(process.pid, signal.SIGINT)
    done = finished(process)
    assert (done.code, job.status) == (130, "Running")
    assert f"phi-scaffold remote logs {job.name}" in done.err
    assert shell.run(project, "remote", "status", "--json").json["jobs"][0]["state"] == "running"
    assert shell.run(project, "remote", "cancel").code == 0
    assert job.ended.wait(60)
    assert shell.run(project, "remote", "status", "--json").json["jobs"][0]["state"] == "canceled"


def test_tokens_that_expire_while_a_job_is_followed_are_renewed(shell: Shell, cloud: Cloud, tmp_path: Path) -> None:
    cloud.token_seconds = 2
    done = shell.run(tiny_project(tmp_path / "tiny"), "run", "fetch", "--on", "azureml")
    assert done.code == 0, done.err
    assert len(cloud.to("^POST .*/token$")) > 2


def test_a_model_of_the_workspace_is_read_by_a_job(shell: Shell, cloud: Cloud, tiny_phi3: Path, tmp_path: Path) -> None:
    cloud.registry["", "my-phi", "3"] = tiny_phi3
    project = tiny_project(tmp_path / "tiny")
    path = project / "fine-tuning" / "olive-config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["input_model"]["model_path"] = {"type": "azureml_model", "name": "my-phi", "version": "3"}
    path.write_text(json.dumps(config), encoding="utf-8")
    done = shell.run(project, "run", "fetch", "--on", "azureml")  # fails in a job without the model
    assert done.code == 0, done.err
    assert only_job(cloud).properties["inputs"]["base_model"]["uri"].endswith("/models/my-phi/versions/3")


def test_data_and_a_base_model_of_this_machine_are_uploaded_on_request(
    shell: Shell, cloud: Cloud, tiny_phi3: Path, tmp_path: Path
) -> None:
    project = tiny_project(tmp_path / "tiny")
    shutil.copytree(tiny_phi3, project / "base")
    setting = ("--set", "input_model.model_path=../base")
    refused = shell.run(project, "run", "finetune", "--on", "azureml", *setting)
    assert (refused.code, cloud.requests) == (2, [])
    done = shell.run(project, "run", "finetune", "--on", "azureml", "--upload", *setting)
    assert done.code == 0, done.err
    assert len(cloud.to("^PUT .*/data/[^/]+/versions/[^/]+$")) == 2
    assert not any(name.startswith(("base/", "datasets/")) for name in cloud.snapshot(only_job(cloud)))
    assert (project / "gen-model/adapter/manifest.json").is_file()
