"""The stand-in answers Azure's unmodified clients: sign-in, upload, jobs that run, logs, outputs, and faults."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.azure.conftest import Client
from tests.azure.environment import EACH_CLIENT
from tests.azure.job_files import command_job, pipeline_job
from tests.azure.standin import Cloud, Fault
from tests.azure.standin.cloud import HUB_TOKEN, ROOT, VAULT, WORKSPACE

pytestmark = [pytest.mark.azure, pytest.mark.timeout(1800)]  # the first creates the environments
PUT_JOB = r"^PUT https://management.azure.com.*/jobs/[^/]+$"
ROWS = b'[{"phrase": "a", "tone": "b"}]'


@pytest.fixture(autouse=True)
def rows(cloud: Cloud) -> None:
    cloud.put("azureml-blobstore", "data/rows.json", ROWS)


def ended(cloud: Cloud, name: str) -> str:
    job = cloud.jobs[name]
    assert job.ended.wait(60)
    return job.status


@EACH_CLIENT
def test_a_job_runs_its_command_with_the_code_and_inputs_that_were_submitted(
    client: Client, cloud: Cloud, tmp_path: Path
) -> None:
    assert client("submit", file=command_job(tmp_path, "train"))["name"] == "train"
    assert ended(cloud, "train") == "Completed"
    assert cloud.snapshot(cloud.jobs["train"]).keys() == {"program.py"}
    assert cloud.log(cloud.jobs["train"]) == f"rows {ROWS.decode()} rank -\n"
    assert client("status", name="train") == "Completed"
    client("download", name="train", folder=str(tmp_path / "down"), output="model")
    assert (tmp_path / "down/named-outputs/model/adapter.bin").read_bytes() == b"adapter of " + ROWS


@EACH_CLIENT
def test_the_nodes_of_a_pipeline_run_in_order_and_pass_their_outputs_on(
    client: Client, cloud: Cloud, tmp_path: Path
) -> None:
    assert client("submit", file=pipeline_job(tmp_path, "both"))["name"] == "both"
    assert ended(cloud, "both") == "Completed"
    train, build = cloud.children(cloud.jobs["both"])
    assert client("children", name="both") == [train.name, build.name]
    assert [cloud.log(train, log)[-2:] for log in train.logs] == ["0\n", "1\n"]  # two nodes, one process each
    client("download", name="both", folder=str(tmp_path / "down"), output="model")
    assert (tmp_path / "down/named-outputs/model/adapter.bin").read_bytes() == b"adapter of adapter of " + ROWS


def test_a_failed_command_fails_its_job_with_the_exit_code(client: Client, cloud: Cloud, tmp_path: Path) -> None:
    client("submit", file=command_job(tmp_path, "train", "fail"))
    assert ended(cloud, "train") == "Failed"
    assert cloud.jobs["train"].error.endswith("status code 3.")


def test_a_canceled_job_ends_its_process(client: Client, cloud: Cloud, tmp_path: Path) -> None:
    client("submit", file=command_job(tmp_path, "train", "wait"))
    while not cloud.jobs["train"].logs or not cloud.log(cloud.jobs["train"]):
        pass
    client("cancel", name="train")
    assert ended(cloud, "train") == "Canceled"
    assert [process.poll() for process in cloud.jobs["train"].processes] == [-15]


def test_the_same_code_is_uploaded_once(client: Client, cloud: Cloud, tmp_path: Path) -> None:
    client("submit", file=command_job(tmp_path, "first"))
    client("submit", file=command_job(tmp_path, "second"))
    assert len(cloud.to("^PUT .*blob.*/program.py$")) == 2  # the file, and the mark that the upload is complete


def test_a_data_asset_is_stored_once_and_read_by_a_job(client: Client, cloud: Cloud, tmp_path: Path) -> None:
    (tmp_path / "rows.json").write_bytes(b"[]")
    asset = client("upload", name="phrases", path=str(tmp_path / "rows.json"))
    assert asset == f"{ROOT}/data/phrases/versions/1"
    inputs = {"rows": {"type": "uri_file", "path": "azureml:phrases:1"}}
    client("submit", file=command_job(tmp_path, "train", inputs=inputs))
    assert ended(cloud, "train") == "Completed"
    assert cloud.log(cloud.jobs["train"]).startswith("rows []")


def test_outputs_of_many_pages_come_down(client: Client, cloud: Cloud, tmp_path: Path) -> None:
    cloud.page = 3
    client("submit", file=command_job(tmp_path, "train"))
    assert ended(cloud, "train") == "Completed"
    for number in range(10):
        cloud.put("azureml-blobstore", f"azureml/train/model/{number}.bin", b"x")
    client("download", name="train", folder=str(tmp_path / "down"), output="model")
    names = {path.name for path in (tmp_path / "down/named-outputs/model").iterdir()}
    assert names == {"adapter.bin", *(f"{number}.bin" for number in range(10))}
    assert len(cloud.to("^GET .*/azureml-blobstore$")) >= 4


def test_sign_in_with_a_device_code(client: Client, cloud: Cloud) -> None:
    cloud.device_code_polls = 2
    assert client("sign_in_with_device_code") == {"workspace": WORKSPACE, "prompts": ["ABCD1234"]}


def test_a_wrong_client_secret_is_refused(client: Client, cloud: Cloud) -> None:
    cloud.client_secret = "another"
    assert client.ask("sign_in")["error"] == "ClientAuthenticationError"


def test_key_vault_gives_a_secret_after_its_challenge(client: Client, cloud: Cloud) -> None:
    assert client("secret", vault=VAULT, name="hf-token") == HUB_TOKEN
    assert [request.status for request in cloud.to("^GET .*vault")] == [401, 200]
    assert client.ask("secret", vault=VAULT, name="other")["error"] == "ResourceNotFoundError"


# Faults of the request that creates the job: outcome at the client, and the number of times it was sent.
FAULTS = {
    "too many requests": (Fault(PUT_JOB, 429, headers={"Retry-After": "1"}), None, 2),
    "internal error": (Fault(PUT_JOB, 500), None, 2),
    "unavailable": (Fault(PUT_JOB, 503), None, 2),
    "connection dropped": (Fault(PUT_JOB, "drop"), None, 2),
    "answer lost": (Fault(PUT_JOB, "lose"), "ResourceExistsError", 2),
    "no permission": (Fault(PUT_JOB, 403), "HttpResponseError", 1),
    "token refused": (Fault(PUT_JOB, 401), "ClientAuthenticationError", 1),
    "not found": (Fault(PUT_JOB, 404), "ResourceNotFoundError", 1),
    "conflict": (Fault(PUT_JOB, 409), "ResourceExistsError", 1),
}


@pytest.mark.parametrize(("fault", "error", "sent"), FAULTS.values(), ids=FAULTS)
def test_a_fault_of_the_submission(
    fault: Fault, error: str | None, sent: int, client: Client, cloud: Cloud, tmp_path: Path
) -> None:
    cloud.faults.append(replace(fault))
    answer = client.ask("submit", file=command_job(tmp_path, "train"))
    assert answer.get("error") == error
    assert len(cloud.to(PUT_JOB)) == sent
    assert len(cloud.jobs) == (error in (None, "ResourceExistsError") and fault.kind != 409)


def test_tokens_that_the_service_no_longer_accepts_are_refused(client: Client, cloud: Cloud) -> None:
    client("names")
    cloud.expire_tokens()
    assert client.ask("names")["error"] == "ClientAuthenticationError"
    assert client("sign_in") == WORKSPACE


def test_signatures_that_have_expired_are_refused(client: Client, cloud: Cloud, tmp_path: Path) -> None:
    cloud.signature_seconds = -1
    (tmp_path / "rows.json").write_bytes(b"[]")
    assert "error" in client.ask("upload", name="phrases", path=str(tmp_path / "rows.json"))
    assert {request.status for request in cloud.to("^PUT .*blob")} <= {403}


@EACH_CLIENT
def test_the_newest_client_still_loses_outputs(client: Client, cloud: Cloud, tmp_path: Path, python: Path) -> None:
    """The downloader of phi-scaffold exists because of this: azure-sdk-for-python issue 48941."""
    client("submit", file=command_job(tmp_path, "train"))
    assert ended(cloud, "train") == "Completed"
    client("download", name="train", folder=str(tmp_path / "down"))
    newest = "1.35" in str(python)
    assert (tmp_path / "down/artifacts/user_logs/std_log.txt").is_file()
    assert (tmp_path / "down/named-outputs/model/adapter.bin").is_file() != newest
