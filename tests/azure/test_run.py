"""`run --on azureml` trains at the stand-in, and the artifacts come back through faults."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.azure.environment import EACH_CLIENT
from tests.azure.projects import PRIVATE, PUT_JOB, Shell, leaks, only_job, tiny_project
from tests.azure.standin import Cloud, Fault, Standin
from tests.azure.standin.cloud import HUB_TOKEN
from tests.phi_runtime.pipeline.test_fetch import HubServer

pytestmark = [pytest.mark.azure, pytest.mark.timeout(1800)]


class Trained:
    """A project whose stages until `merge` ran as a job, and what `run` printed."""

    def __init__(self, folder: Path, shell: Shell, cloud: Cloud) -> None:
        cloud.reset()
        self.cloud, self.shell = cloud, shell
        self.project = tiny_project(folder / "tiny")
        self.outcome = shell.run(self.project, "run", "--on", "azureml", "--until", "merge")
        self.requests = list(cloud.requests)
        self.job = only_job(cloud)


@pytest.fixture(scope="module")
def trained(shell: Shell, standin: Standin, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return Trained(tmp_path_factory.mktemp("trained"), shell, standin.cloud)


@pytest.fixture
def again(trained: Trained, tmp_path: Path) -> Iterator[Trained]:
    """The same without its merged model, which returns after the test, and without faults."""
    merged, kept = trained.project / "gen-model" / "merged", tmp_path / "merged"
    merged.replace(kept)
    trained.cloud.faults.clear()
    trained.cloud.requests.clear()
    yield trained
    shutil.rmtree(merged, ignore_errors=True)
    kept.replace(merged)


@EACH_CLIENT
def test_a_job_trains_and_its_artifacts_come_back(trained: Trained) -> None:
    assert trained.outcome.code == 0, trained.outcome.err
    assert (trained.project / "gen-model/adapter/adapter_model.safetensors").is_file()
    assert (trained.project / "gen-model/merged/model.safetensors").is_file()
    assert trained.job.status == "Completed"
    assert trained.cloud.errors == []


def test_a_snapshot_has_few_files_and_none_that_must_stay_here(trained: Trained) -> None:
    snapshot = trained.cloud.snapshot(trained.job)
    assert {"fine-tuning/olive-config.json", "datasets/train.jsonl"} <= snapshot.keys()
    assert len(snapshot) <= 20
    assert sum(map(len, snapshot.values())) <= 1_000_000
    assert not {name for name in PRIVATE if name in snapshot}


def test_no_secret_is_written_printed_or_sent(trained: Trained) -> None:
    assert leaks(trained.cloud, trained.project.parent, trained.outcome) == []


def test_local_stages_continue_from_a_job(trained: Trained, hub: HubServer) -> None:
    address = f"http://127.0.0.1:{hub.server_port}"
    done = trained.shell.run(
        trained.project,
        *("run", "--on", "local", "--until", "merge", "--json", "--trust-project"),
        HF_ENDPOINT=address,
        HF_HUB_OFFLINE="0",
        HF_TOKEN=HUB_TOKEN,
    )
    assert done.code == 0, done.err
    events = [json.loads(line) for line in done.out.splitlines()]
    states = {event["stage"]: event["state"] for event in events if event["event"] == "stage-finished"}
    assert states == {"fetch": "done", "finetune": "cached", "merge": "cached"}


@pytest.mark.parametrize("command", ["chat", "generate"])
def test_the_model_of_a_job_answers_here(command: str, trained: Trained) -> None:
    options = ("--model", "merged", "--max-new-tokens", "2", "--trust-project")
    done = trained.shell.run(trained.project, command, *options, said="what a day\n")
    assert done.code == 0, done.err
    assert "merged (gen-model/merged)" in done.err
    assert done.out  # a model without training may answer with line ends only


def test_the_same_run_is_not_submitted_twice(again: Trained) -> None:
    done = again.shell.run(again.project, "run", "--on", "azureml", "--until", "merge", "--json")
    assert done.code == 0, done.err
    assert again.cloud.to(PUT_JOB) == []
    events = [json.loads(line) for line in done.out.splitlines()]
    progress = [event for event in events if event.get("event") == "progress" and event["stage"] == "download"]
    assert progress[-1]["done"] == progress[-1]["total"]
    assert [event["state"] for event in events if event.get("stage") == "download" and "state" in event] == ["done"]
    assert (again.project / "gen-model/merged/model.safetensors").is_file()


def test_a_download_survives_all_faults_at_once(again: Trained) -> None:
    faults = [
        Fault(r"^GET https://management", 429, headers={"Retry-After": "1"}),
        Fault(r"^GET .*/merged/model.safetensors$", "cut", times=2),
        Fault(r"^GET .*/merged/", "drop", times=2),
        Fault(r"^GET .*/merged/", 403, code="AuthenticationFailed"),  # its signature has expired
        Fault(r"^GET .*blob.core", 503, times=2),
    ]
    again.cloud.faults.extend(faults)
    done = again.shell.run(again.project, "remote", "download")
    assert done.code == 0, done.err
    assert [fault for fault in faults if fault.times] == []
    assert leaks(again.cloud, again.project.parent, done) == []
    assert (again.project / "gen-model/merged/model.safetensors").is_file()


def test_a_damaged_output_is_not_put_in_place(again: Trained) -> None:
    ((container, name),) = (
        (container, name)
        for container, blobs in again.cloud.blobs.items()
        for name in blobs
        if name.endswith("/merged/model.safetensors")
    )
    blob = again.cloud.blobs[container][name]
    blob.data[100] ^= 1
    try:
        done = again.shell.run(again.project, "remote", "download")
    finally:
        blob.data[100] ^= 1
    assert done.code == 7
    assert not (again.project / "gen-model/merged").exists()


def test_status_and_log_of_a_job_that_has_ended(again: Trained) -> None:
    status = again.shell.run(again.project, "remote", "status", "--json").json["jobs"]
    assert [(job["job"], job["state"]) for job in status] == [(again.job.name, "done")]
    log = again.shell.run(again.project, "remote", "logs", "--json")
    events = [json.loads(line) for line in log.out.splitlines() if line.startswith('{"event"')]
    assert [event["stage"] for event in events if event["event"] == "stage-finished"] == ["fetch", "finetune", "merge"]


def test_a_log_is_complete_after_all_faults_at_once(again: Trained) -> None:
    faults = [Fault(r"^GET https://eastus.*/details$", 500)]
    faults += [Fault(r"^GET .*/std_log.txt$", kind) for kind in (503, "drop", "cut")]
    again.cloud.faults.extend(faults)
    done = again.shell.run(again.project, "remote", "logs", "--json")
    assert done.code == 0, done.err
    assert [fault for fault in faults if fault.times] == []
    assert done.out.splitlines() == again.cloud.log(again.job).splitlines()


def test_a_workspace_that_does_not_know_its_service_is_one_error(again: Trained) -> None:
    again.cloud.faults.append(Fault(r"^GET .*/discovery$", 404))
    done = again.shell.run(again.project, "remote", "logs")
    assert (done.code, "does not answer at" in done.err) == (7, True)


def test_the_code_of_a_job_is_the_archive_of_its_snapshot(trained: Trained) -> None:
    assert "phi-scaffold.tar.xz" in trained.cloud.snapshot(trained.job)
    assert "PYTHONPATH" not in trained.cloud.machine
