"""What a run in a process of its own leaves behind when it is stopped, killed or still at work."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from phi_runtime.core.project import ProjectFolder
from phi_runtime.pipeline.engine import run
from phi_runtime.pipeline.load import load_workflow
from phi_runtime.pipeline.plan import plan
from tests.conftest import Listener, MakeProject, states, tiny_project, weights


def training(project: ProjectFolder, until_step: int) -> subprocess.Popen[str]:
    """`run --until finetune --json` in a process of its own, which has just done `until_step` steps."""
    process = subprocess.Popen(
        [sys.executable, "-m", "phi_scaffold", "run", "--until", "finetune", "--json"],
        cwd=project.root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    for line in process.stdout:
        event = json.loads(line)
        if event["event"] == "progress" and event.get("unit") == "steps" and event["done"] >= until_step:
            break
    return process


SETTINGS: dict[str, Any] = {"max_steps": 40, "save_steps": 5, "passes": {"finetune": {"lora_dropout": 0.1}}}


@pytest.fixture(scope="module")
def whole(tiny_phi3: Path, tmp_path_factory: pytest.TempPathFactory) -> ProjectFolder:
    """A project whose training was not interrupted."""
    project = tiny_project(tmp_path_factory.mktemp("uninterrupted") / "whole", tiny_phi3, **SETTINGS)
    run(project, Listener(), until="finetune")
    return project


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_in_training_saves_and_the_next_run_ends_byte_identical(
    whole: ProjectFolder, make_project: MakeProject, number: signal.Signals
) -> None:
    stopped = make_project("stopped", **SETTINGS)
    process = training(stopped, until_step=7)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err + out[-1500:]
    last = json.loads(out.splitlines()[-1])
    assert last["event"] == "error"
    assert "the step is saved" in last["message"]
    assert "Traceback" not in err
    assert not (stopped.gen_model / "adapter" / "manifest.json").exists()

    stage = next(s for s in plan(load_workflow(stopped.config), stopped) if s.name == "finetune")
    assert "interrupted" in stage.why
    listener = Listener()
    run(stopped, listener, until="finetune")
    said = [e["message"] for e in listener.of("progress") if "message" in e]
    assert any("resuming from step" in s for s in said)
    assert weights(stopped.gen_model / "adapter") == weights(whole.gen_model / "adapter")
    log = (stopped.gen_model / "adapter" / "loss_log.jsonl").read_text()
    assert log == (whole.gen_model / "adapter" / "loss_log.jsonl").read_text()


def test_a_kill_in_training_goes_on_from_the_last_whole_checkpoint(
    make_project: MakeProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = make_project(max_steps=30, save_steps=3)
    process = training(project, until_step=10)
    process.kill()
    process.communicate(timeout=60)
    work = next((project.gen_model / ".work").iterdir())
    checkpoints = sorted((work / "checkpoints").glob("checkpoint-*"), key=lambda p: int(p.name.partition("-")[2]))
    assert not (checkpoints[-1] / "README.md").exists(), "peft has an empty card for each"
    broken = work / "checkpoints" / "checkpoint-99"
    broken.mkdir()
    (broken / "trainer_state.json").write_text("{}")
    listener = Listener()
    monkeypatch.setattr("phi_runtime.hardware.device.usable_cores", lambda: 2)
    run(project, listener, until="finetune")
    said = [w["message"] for w in listener.of("warning")]
    assert [s for s in said if "threads" in s] == [
        "resuming with 2 threads (was 1): the weights may differ in their last digits"
    ]
    assert any("ignored checkpoint-99: it is incomplete" in w["message"] for w in listener.of("warning"))
    step = checkpoints[-1].name.partition("-")[2]
    assert any(e.get("message") == f"resuming from step {step}" for e in listener.of("progress"))


def test_a_reader_that_goes_away_sees_no_traceback(make_project: MakeProject) -> None:
    project = make_project(max_steps=500)
    process = training(project, until_step=3)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.wait(timeout=60) == 130
    assert process.stderr.read() == ""
    assert states(project)["finetune"] == "missing"


def test_status_tells_a_running_stage(make_project: MakeProject) -> None:
    project = make_project(max_steps=500)
    process = subprocess.Popen(
        [sys.executable, "-m", "phi_scaffold", "run", "--until", "finetune"],
        cwd=project.root,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 60
        while states(project)["finetune"] != "running":
            assert time.monotonic() < deadline
            time.sleep(0.2)
    finally:
        process.kill()
        process.wait()
