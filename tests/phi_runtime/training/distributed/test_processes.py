"""Two processes of the CPU that train together, over gloo: the losses of one, and a clean end whatever happens."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from phi_runtime.config.schema import FinetunePass
from phi_runtime.core.artifacts import read_manifest
from phi_runtime.core.errors import Conflict, DataError, UsageError, WorkFailed
from phi_runtime.core.events import Event
from phi_runtime.core.project import ProjectFolder
from phi_runtime.pipeline.artifact import work_root
from phi_runtime.pipeline.engine import run
from phi_runtime.pipeline.load import load_workflow
from phi_runtime.training.distributed.accelerate_config import accelerate_config, as_yaml
from tests.conftest import Cli, Listener, MakeProject, edit_config, states

pytest.importorskip("accelerate")

# 51 rows are trained, 12 at a time: the last step of an epoch has 3, all of them for the first of the processes.
TRAINING = {
    "max_steps": -1,
    "num_train_epochs": 2,
    "per_device_train_batch_size": 3,
    "gradient_accumulation_steps": 4,
    "per_device_eval_batch_size": 5,
    "learning_rate": 0.002,
    "save_steps": 2,
}
FOLDERS = {"lora": "adapter", "full": "merged"}


@pytest.fixture
def make(make_project: MakeProject) -> MakeProject:
    """A project that trains without dropout, which falls otherwise in each process."""

    def made(name: str, method: str, **training: Any) -> ProjectFolder:
        passes = {"finetune": {"lora_dropout": 0.0}} if method == "lora" else {}
        return make_project(name, method, rows=64, passes=passes, **{**TRAINING, **training})

    return made


def same_as_one_process(project: ProjectFolder, make: MakeProject, method: str, epochs: int = 2) -> None:
    """Compares what is in the project with what one process makes."""
    from safetensors.torch import load_file

    one = make("one", method, num_train_epochs=epochs)
    run(one, Listener(), until="finetune")
    folders = [each.gen_model / FOLDERS[method] for each in (one, project)]
    logs = [[json.loads(line) for line in (folder / "loss_log.jsonl").read_text().splitlines()] for folder in folders]
    alone, together = ([e["loss"] if "loss" in e else e["eval_loss"] for e in log] for log in logs)
    assert len(alone) == 6 * epochs  # five steps, and the evaluation
    assert together == pytest.approx(alone, abs=1e-5)
    files = [
        {path.name for path in folder.iterdir()} - {"README.md"} for folder in folders
    ]  # which the command line writes
    assert files[0] == files[1]
    alone, together = (load_file(next(folder.glob("*.safetensors"))) for folder in folders)
    assert set(alone) == set(together)
    for name, weight in alone.items():
        assert (together[name] - weight).abs().max() < 1e-4


def workers(project: ProjectFolder) -> list[int]:
    """The processes of the machine that work for the project's training."""
    listed = subprocess.run(["ps", "-ww", "-eo", "pid,args"], capture_output=True, text=True, check=True).stdout
    return [
        int(line.split()[0]) for line in listed.splitlines() if f"{project.root}/" in line and "request.json" in line
    ]


def none_left(project: ProjectFolder) -> bool:
    """Whether the processes end; they may take a moment for it."""
    deadline = time.monotonic() + 60
    while workers(project) and time.monotonic() < deadline:
        time.sleep(0.2)
    return not workers(project)


@contextmanager
def started(project: ProjectFolder, until_step: int) -> Iterator[subprocess.Popen[str]]:
    """`run --nproc 2` in a separate process, which has just done `until_step` steps."""
    process = subprocess.Popen(
        [sys.executable, "-m", "phi_scaffold", "run", "--until", "finetune", "--nproc", "2", "--json"],
        cwd=project.root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        for line in process.stdout:
            event = json.loads(line)
            if event["event"] == "progress" and event.get("unit") == "steps" and event["done"] >= until_step:
                break
        yield process
    finally:
        process.kill()
        process.communicate(timeout=60)


def test_two_processes_have_the_losses_and_the_adapter_of_one(make: MakeProject) -> None:
    project, listener = make("two", "lora"), Listener()
    run(project, listener, until="finetune", nproc=2)
    same_as_one_process(project, make, "lora")
    progress = listener.of("progress")
    assert [e["done"] for e in progress if e.get("unit") == "steps"] == list(range(1, 11))  # by the first of them alone
    assert any("2 processes: 3 rows × 2 batches × 2 = 12 rows a step" in e.get("message", "") for e in progress)
    manifest = read_manifest(project.gen_model / "adapter")
    assert manifest is not None
    assert manifest.facts["processes"] == 2
    assert states(project)["finetune"] == "cached"  # the number of processes is not part of its key
    assert none_left(project)


@pytest.mark.slow
def test_a_sharded_model_has_the_losses_and_the_weights_of_a_whole_one(make: MakeProject) -> None:
    project = make("two", "full", fsdp=True)
    run(project, Listener(), until="finetune", nproc=2)
    same_as_one_process(project, make, "full")


@pytest.mark.slow
def test_a_process_that_is_killed_is_named_and_the_next_run_ends_with_the_weights_of_one(make: MakeProject) -> None:
    project = make("two", "full")

    class Killer(Listener):
        def __call__(self, event: Event) -> None:
            super().__call__(event)
            if event.data.get("unit") == "steps" and event.data["done"] == 5:
                os.kill(max(workers(project)), signal.SIGKILL)

    with pytest.raises(WorkFailed, match=r"process [01] of 2 .* was killed \(SIGKILL\)"):
        run(project, Killer(), until="finetune", nproc=2)
    assert none_left(project)
    listener = Listener()
    run(project, listener, until="finetune", nproc=2)
    assert any("resuming from step" in e.get("message", "") for e in listener.of("progress"))
    same_as_one_process(project, make, "full")


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["FULL_STATE_DICT", "SHARDED_STATE_DICT"])
def test_a_sharded_training_resumes_with_more_processes_and_one_process_is_refused(
    make: MakeProject, layout: str
) -> None:
    project = make("two", "full", fsdp=True, fsdp_config={"state_dict_type": layout})

    class Killer(Listener):
        def __call__(self, event: Event) -> None:
            super().__call__(event)
            if event.data.get("unit") == "steps" and event.data["done"] == 5:
                os.kill(max(workers(project)), signal.SIGKILL)

    with pytest.raises(WorkFailed, match="was killed"):
        run(project, Killer(), until="finetune", nproc=2)
    with pytest.raises(Conflict, match=r"step \d was saved in shards") as refused:
        run(project, Listener(), until="finetune")
    assert "--nproc 2" in refused.value.fix
    (step,) = re.findall(r"step \d", refused.value.what)
    listener = Listener()
    run(project, listener, until="finetune", nproc=3)
    assert any(f"resuming from {step}" in e.get("message", "") for e in listener.of("progress"))
    same_as_one_process(project, make, "full")


@pytest.mark.slow
def test_ctrl_c_and_a_kill_of_the_run_leave_no_process_and_the_next_run_goes_on(make: MakeProject) -> None:
    project = make("two", "lora", fsdp=True, num_train_epochs=5)  # long enough to be still at work when it is stopped
    with started(project, until_step=3) as killed:
        assert len(workers(project)) == 3  # and accelerate's launcher
        killed.kill()
    assert none_left(project)

    with started(project, until_step=5) as stopped:
        stopped.send_signal(signal.SIGINT)
        out, err = stopped.communicate(timeout=120)
        assert stopped.returncode == 130, err + out[-1500:]
    assert "the step is saved" in json.loads(out.splitlines()[-1])["message"]
    assert "Traceback" not in err
    assert none_left(project)

    listener = Listener()
    run(project, listener, until="finetune", nproc=2)
    assert [e["message"] for e in listener.of("progress") if "resuming" in e.get("message", "")]
    same_as_one_process(project, make, "lora", epochs=5)


def test_an_error_in_the_data_comes_back_as_what_it_is(make: MakeProject) -> None:
    project = make("two", "lora")
    with (project.root / "datasets" / "train.jsonl").open("a") as file:
        file.write("{broken\n")
    with pytest.raises(DataError) as caught:
        run(project, Listener(), until="finetune", nproc=2)
    assert caught.value.where is not None
    assert caught.value.where.line == 65
    assert "--skip-bad-rows" in caught.value.fix
    assert none_left(project)


def test_what_cannot_be_shared_is_said_before_anything_is_done(make: MakeProject) -> None:
    project = make("two", "lora")
    with pytest.raises(UsageError, match="5 processes cannot share a step of 3 rows × 4 batches evenly"):
        run(project, Listener(), nproc=5)
    edit_config(project, lambda c: c["passes"]["finetune"]["training_args"].update(fsdp=True))
    edit_config(project, lambda c: c["passes"]["finetune"].update(int4_aware=True))
    with pytest.raises(UsageError, match="int4_aware and fsdp"):
        run(project, Listener(), nproc=2)
    assert not (project.gen_model / "runs").exists()


def test_the_config_of_accelerate_is_written_with_the_command_line_that_takes_it(
    make: MakeProject, cli: Cli, tmp_path: Path
) -> None:
    import yaml
    from accelerate.commands.config.config_args import load_config_from_file

    project, file = make("two", "lora"), tmp_path / "accelerate.yaml"
    result = cli("run", "--nproc", "2", "--emit-accelerate-config", file, "--json", "--project", project.root)
    assert result.code == 0, result.err
    assert yaml.safe_load(file.read_text())["num_processes"] == 2
    read = load_config_from_file(str(file))
    assert (read.num_processes, read.use_cpu) == (2, True)
    command = shlex.split(result.json["command"])
    assert command[1:4] == ["accelerate", "launch", "--config_file"]
    assert Path(command[-1]).is_file()
    assert result.json["stage"] == "finetune"
    assert states(project)["finetune"] == "missing"
    refused = cli("run", "merge", "--emit-accelerate-config", file, "--project", project.root)
    assert refused.code == 2
    assert "`merge` does not train" in refused.err


def test_a_missing_folder_of_the_config_of_accelerate_leaves_no_work_that_seems_interrupted(
    make: MakeProject, cli: Cli, tmp_path: Path
) -> None:
    project, file = make("two", "lora"), tmp_path / "missing" / "accelerate.yaml"
    refused = cli("run", "--nproc", "2", "--emit-accelerate-config", file, "--project", project.root)
    assert refused.code == 2
    assert "there is no folder" in refused.err
    assert not work_root(project).exists()


def test_the_config_of_accelerate_says_how_gpus_cut_the_model(make: MakeProject, tmp_path: Path) -> None:
    from accelerate.commands.config.config_args import load_config_from_file
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser

    project, file = make("two", "lora", fsdp=True), tmp_path / "accelerate.yaml"
    layers = {"transformer_layer_cls_to_wrap": ["Phi3DecoderLayer"], "cpu_offload": True}
    edit_config(project, lambda c: c["passes"]["finetune"]["training_args"].update(fsdp_config=layers))
    workflow = load_workflow(project.config)
    accelerators = workflow.systems["local_system"].accelerators[0].model_copy(update={"device": "gpu"})
    system = workflow.systems["local_system"].model_copy(update={"accelerators": [accelerators]})
    workflow = workflow.model_copy(update={"systems": {"local_system": system}})
    step = workflow.passes["finetune"]
    assert isinstance(step, FinetunePass)
    file.write_text(as_yaml(accelerate_config(workflow, step, 4)))
    assert load_config_from_file(str(file)).num_processes == 4
    arguments = launch_command_parser().parse_args(["--config_file", str(file), "script.py"])
    read, _, _ = _validate_launch_command(arguments)
    assert read.use_fsdp
    assert (read.fsdp_version, read.fsdp_offload_params, read.fsdp_cpu_ram_efficient_loading) == (2, True, False)
    assert read.fsdp_transformer_layer_cls_to_wrap == "Phi3DecoderLayer"
