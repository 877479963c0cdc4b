"""`run --on slurm` on a cluster of two nodes: training, Ctrl-C, cancel, requeue and failures."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from phi_runtime.core.events import silent
from phi_runtime.pipeline.engine import run
from tests.factory import tiny_project
from tests.slurm.conftest import NewProject, finished, wait

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(300)]

WEIGHTS = "gen-model/adapter/adapter_model.safetensors"


def losses(project: Path) -> list[float]:
    lines = (project / "gen-model" / "adapter" / "loss_log.jsonl").read_text().splitlines()
    return [entry["loss"] for entry in map(json.loads, lines) if "loss" in entry]


def test_two_nodes_train_with_the_losses_of_one_process(
    new_project: NewProject, tiny_phi3: Path, tmp_path: Path
) -> None:
    training = {"passes": {"finetune": {"lora_dropout": 0.0}}, "max_steps": 6}
    project = new_project(**training)
    done = project.run("run", "finetune", "--on", "slurm", "--sbatch", "nodes=2", "--json")
    assert done.code == 0, done.err
    assert any("2 processes on 2 machines" in str(event.get("message")) for event in done.events)
    assert done.events[-1]["present"][-1] == "gen-model/adapter"
    assert "COMPLETED" in done.err

    one = tiny_project(tmp_path / "one", tiny_phi3, **training)
    run(one, silent, only=["finetune"])
    assert len(losses(one.root)) == 6
    assert losses(project.folder) == pytest.approx(losses(one.root), abs=1e-5)


def test_ctrl_c_leaves_the_job_running_the_same_run_finds_it_and_remote_cancels_it(new_project: NewProject) -> None:
    project = new_project(max_steps=100_000)
    process = project.start("run", "finetune", "--on", "slurm")
    wait(lambda: bool(list(project.folder.glob("gen-model/remote/*/record.json"))), project.cluster)
    job = project.job()
    project.wait_for_log(job, '"unit": "steps"')
    process.send_signal(signal.SIGINT)
    stopped = finished(process)
    assert stopped.code == 130
    assert f"phi-scaffold remote logs {job} -f" in stopped.err
    assert project.cluster.field(job, "JobState") == "RUNNING"

    again = project.run("run", "finetune", "--on", "slurm", "--detach")
    assert again.code == 0, again.err
    assert f"job {job} is running already" in again.err
    assert project.run("remote", "cancel").code == 0
    wait(lambda: project.cluster.field(job, "JobState") == "CANCELLED", project.cluster)
    status = json.loads(project.run("remote", "status", "--json").out)["jobs"]
    assert [(each["job"], each["state"]) for each in status] == [(job, "canceled")]
    ended = project.run("remote", "logs", "-f")
    assert ended.code == 1
    assert f"job {job} was canceled" in ended.err
    assert "the step is saved" in project.log(job)


def test_a_job_at_its_time_limit_saves_its_step(new_project: NewProject) -> None:
    project = new_project(max_steps=100_000)
    assert project.run("run", "finetune", "--on", "slurm", "--detach").code == 0
    job = project.job()
    project.wait_for_log(job, '"unit": "steps"')
    project.cluster.call("scancel", "--batch", "--signal=TERM", job)  # as Slurm does 120 s before the limit
    ended = project.run("remote", "logs", "-f")
    assert ended.code == 130
    assert f"job {job} failed: stopped at step" in ended.err
    assert "help: submit it again, and it resumes" in ended.err


def test_a_job_that_is_requeued_in_the_middle_has_the_bytes_of_one_that_is_not(
    new_project: NewProject, tiny_phi3: Path, tmp_path: Path
) -> None:
    training = {"max_steps": 100}
    project = new_project(**training)
    process = project.start("run", "finetune", "--on", "slurm", "--json")
    wait(lambda: bool(list(project.folder.glob("gen-model/remote/*/record.json"))), project.cluster)
    job = project.job()
    project.wait_for_log(job, '"unit": "steps"', '"done": 3,')
    project.cluster.call("scontrol", "requeue", job)
    wait(lambda: project.cluster.field(job, "JobState") == "PENDING", project.cluster)
    project.cluster.call("scontrol", "update", f"JobId={job}", "StartTime=now")  # instead of two minutes later
    done = finished(process)
    assert done.code == 0, done.err
    assert project.cluster.field(job, "Restarts") == "1"
    assert any("resuming from step" in str(event.get("message")) for event in done.events)

    uninterrupted = tiny_project(tmp_path / "uninterrupted", tiny_phi3, **training)
    run(uninterrupted, silent, only=["finetune"])
    assert (project.folder / WEIGHTS).read_bytes() == (uninterrupted.root / WEIGHTS).read_bytes()


def test_a_failing_job_ends_with_its_own_error_and_exit_code(new_project: NewProject) -> None:
    project = new_project()
    with (project.folder / "datasets" / "train.jsonl").open("a") as rows:
        rows.write("{broken\n")
    done = project.run("run", "finetune", "--on", "slurm")
    assert done.code == 4, done.err
    assert f"datasets/train.jsonl:61:2: error: job {project.job()} failed: " in done.err
    assert "--skip-bad-rows" in done.err
    assert project.cluster.field(project.job(), "ExitCode") == "4:0"


def test_an_option_that_the_cluster_refuses_is_an_error_and_no_job(new_project: NewProject) -> None:
    project = new_project()
    done = project.run("run", "--on", "slurm", "--sbatch", "partition=none")
    assert done.code == 1
    assert "invalid partition specified: none; Batch job submission failed" in done.err
    assert project.cluster.call("squeue", "--noheader") == ""
