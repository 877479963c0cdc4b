"""Passes on several systems: one pipeline job, whose nodes run, and whose artifacts are used here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.azure.environment import EACH_CLIENT
from tests.azure.projects import CLIENT, PUT_JOB, Shell, leaks, only_job, tiny_project
from tests.azure.standin import Cloud, Fault

pytestmark = [pytest.mark.azure, pytest.mark.timeout(1800)]


def project_on_two_systems(folder: Path) -> Path:
    """Create a project that trains on one cluster and builds on another."""
    project = tiny_project(folder)
    path = project / "fine-tuning" / "olive-config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    build = {**config["systems"]["aml"], "aml_compute": "arc-cluster", "resources": {"instance_type": "cpuinstance"}}
    config["systems"]["build"] = build
    config["host"] = "aml"
    config["passes"]["export"]["host"] = "build"
    path.write_text(json.dumps(config, indent=2), encoding="utf-8")
    return project


def test_a_pipeline_trains_on_one_system_and_builds_on_another(shell: Shell, cloud: Cloud, tmp_path: Path) -> None:
    project = project_on_two_systems(tmp_path / "tiny")
    done = shell.run(project, "run", "--until", "export", "--json")
    assert done.code == 0, done.err
    train, build = cloud.children(only_job(cloud))
    computes = [job.properties["computeId"].rpartition("/")[2] for job in (train, build)]
    assert (computes, train.status, build.status) == (["gpu-cluster", "arc-cluster"], "Completed", "Completed")
    states = [
        (event["stage"], event["state"])
        for event in map(json.loads, done.out.splitlines())
        if event.get("event") == "stage-finished" and event["stage"] != "download"
    ]
    first = [("fetch", "done"), ("finetune", "done"), ("merge", "done")]
    then = [("fetch", "done"), ("finetune", "cached"), ("merge", "cached"), ("export", "done")]
    assert states == [*first, *then]
    for folder in ("adapter", "merged", "onnx"):
        assert (project / "gen-model" / folder / "manifest.json").is_file()
    assert leaks(cloud, tmp_path, done) == []
    answer = shell.run(project, "generate", "what a day", "--model", "onnx", "--max-new-tokens", "2", "--json")
    assert answer.code == 0, answer.err


def test_the_artifacts_of_a_pipeline_whose_last_step_failed_come_back(
    shell: Shell, cloud: Cloud, tmp_path: Path
) -> None:
    project = project_on_two_systems(tmp_path / "tiny")
    path = project / "fine-tuning" / "olive-config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["systems"]["build"]["azureml_client_config"] = {**CLIENT, "keyvault_name": "othervault"}
    path.write_text(json.dumps(config, indent=2), encoding="utf-8")
    cloud.faults.append(Fault("^GET https://othervault", 403, times=9, code="Forbidden"))
    done = shell.run(project, "run", "--until", "export")
    train, build = cloud.children(only_job(cloud))
    assert (done.code, train.status, build.status) == (1, "Completed", "Failed"), done.err
    assert shell.run(project, "remote", "download").code == 0
    assert (project / "gen-model" / "merged" / "manifest.json").is_file()


@EACH_CLIENT
def test_a_pipeline_is_submitted_once(shell: Shell, cloud: Cloud, tmp_path: Path) -> None:
    cloud.has_machines = False
    project = project_on_two_systems(tmp_path / "tiny")
    for _ in range(2):
        done = shell.run(project, "run", "--detach")
        assert done.code == 0, done.err
    assert len(cloud.to(PUT_JOB)) == 1
    assert only_job(cloud).properties["jobType"] == "Pipeline"
