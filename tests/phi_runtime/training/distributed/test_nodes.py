"""Two machines, which are two runs on this one, train together with the variables of torchrun."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from phi_runtime.core.errors import Interrupted, PhiError, UsageError, WorkFailed
from phi_runtime.core.project import ProjectFolder
from phi_runtime.training.distributed import launch
from phi_runtime.training.distributed import nodes as nodes_module
from phi_runtime.training.distributed.launch import _run_share
from phi_runtime.training.distributed.nodes import (
    Nodes,
    Rendezvous,
    SharedTraining,
    shared_request,
    take_rendezvous,
)
from tests.conftest import Listener, MakeProject
from tests.phi_runtime.training.distributed.test_processes import make as make
from tests.phi_runtime.training.distributed.test_processes import none_left, same_as_one_process
from tests.phi_runtime.training.test_methods import context_of


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


VARIABLES = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "node-1", "MASTER_PORT": "29500"}


def test_the_variables_of_torchrun_are_taken_out_of_the_environment() -> None:
    environment = {**VARIABLES, "LOCAL_RANK": "0", "PATH": "/bin"}
    assert take_rendezvous(environment) == Rendezvous(1, 2, "node-1", 29500)
    assert environment == {"PATH": "/bin"}


@pytest.mark.parametrize("alone", [{}, {"WORLD_SIZE": "1", "RANK": "0"}])
def test_one_machine_needs_no_rendezvous(alone: dict[str, str]) -> None:
    assert take_rendezvous(dict(alone)) is None


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"MASTER_ADDR": ""}, "MASTER_ADDR"),
        ({"RANK": "2"}, "RANK=2"),
        ({"MASTER_PORT": "x"}, "MASTER_PORT=x"),
        ({"LOCAL_RANK": "1"}, "per machine"),
        ({"LOCAL_WORLD_SIZE": "8"}, "per machine"),
    ],
)
def test_variables_that_describe_no_machines_are_refused(changed: dict[str, str], named: str) -> None:
    with pytest.raises(UsageError, match=named):
        take_rendezvous({**VARIABLES, **changed})


@contextmanager
def two_machines() -> Iterator[tuple[Nodes, Nodes]]:
    port = free_port()
    first = Nodes(Rendezvous(0, 2, "127.0.0.1", port))
    yield first, Nodes(Rendezvous(1, 2, "127.0.0.1", port))


def test_the_others_get_each_training_and_then_the_end(tmp_path: Path) -> None:
    request = tmp_path / "request.json"
    request.write_text("{}")
    seen: list[SharedTraining | None] = []
    with two_machines() as (first, other):

        def join() -> None:
            with other:
                while training := other.next_training():
                    seen.append(training)

        thread = threading.Thread(target=join)
        thread.start()
        with first:
            ports = [first.share_training(request, 2), first.share_training(request, 4)]
        thread.join(30)
    assert [(each.processes, each.port) for each in seen if each] == list(zip((2, 4), ports, strict=True))


@pytest.mark.parametrize("error", [WorkFailed("no"), Interrupted("stopped")])
def test_the_others_end_as_the_first_machine_does(error: PhiError, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nodes_module, "_LEAVE_S", 0.0)
    with two_machines() as (first, other):
        with pytest.raises(type(error)), first:
            raise error
        with pytest.raises(type(error)):
            other.next_training()


def test_a_training_of_another_folder_or_disk_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nodes_module, "_SHARED_S", 0.0)
    project = ProjectFolder(tmp_path / "p", tmp_path / "p" / "config.json")
    project.root.mkdir()
    elsewhere = tmp_path / "request.json"
    elsewhere.write_text("{}")
    with pytest.raises(UsageError, match="is not in"):
        shared_request(SharedTraining(str(elsewhere), "", 1, 1), project)
    stale = project.root / "request.json"
    stale.write_text("{}")
    with pytest.raises(WorkFailed, match="not visible"):
        shared_request(SharedTraining(str(stale), "another digest", 1, 1), project)


def test_a_machine_without_events_waits_for_its_processes_however_long_they_are_silent(
    make_project: MakeProject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context, request = context_of(make_project(), tmp_path), tmp_path / "request.json"
    monkeypatch.setattr(launch, "SILENCE_S", 0.0)
    silent = SimpleNamespace(executable=shutil.which("true"))  # ends with 0, without a message
    monkeypatch.setattr(launch, "sys", silent)
    assert _run_share(context, request, 1, Rendezvous(1, 2, "127.0.0.1", 1), tmp_path / "log") == {}
    with pytest.raises(WorkFailed, match="sent nothing"):
        _run_share(context, request, 1, Rendezvous(0, 2, "127.0.0.1", 1), tmp_path / "log")


def machine(project: ProjectFolder, rank: int, port: int) -> subprocess.Popen[str]:
    meeting = {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return subprocess.Popen(
        [sys.executable, "-m", "phi_scaffold", "run", "--until", "finetune", "--json"],
        cwd=project.root, env={**os.environ, **meeting}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("method", "fsdp"), [("lora", False), ("full", True)])
def test_two_machines_have_the_losses_of_one_process(make: MakeProject, method: str, fsdp: bool) -> None:
    project, port = make("two", method, **({"fsdp": True} if fsdp else {})), free_port()
    machines = [machine(project, rank, port) for rank in (0, 1)]
    outputs = [each.communicate(timeout=240) for each in machines]
    assert [each.returncode for each in machines] == [0, 0], outputs
    assert "2 processes on 2 machines" in outputs[0][0]
    assert outputs[1][0] == ""
    same_as_one_process(project, make, method)
    assert none_left(project)


@pytest.mark.slow
@pytest.mark.parametrize("stopped", [0, 1])
def test_a_signal_to_one_machine_saves_the_step_on_both_and_the_next_run_resumes(
    make: MakeProject, stopped: int
) -> None:
    project, port = make("two", "lora", num_train_epochs=5), free_port()
    machines = [machine(project, rank, port) for rank in (0, 1)]
    assert machines[0].stdout is not None
    for line in machines[0].stdout:
        if '"unit": "steps"' in line and '"done": 3' in line:
            break
    machines[stopped].send_signal(signal.SIGTERM)
    machines[stopped].send_signal(signal.SIGTERM)  # managers send several
    outputs = [each.communicate(timeout=240) for each in machines]
    assert [each.returncode for each in machines] == [130, 130], outputs
    assert "the step is saved" in outputs[0][0]
    from phi_runtime.pipeline.engine import run

    listener = Listener()
    run(project, listener, until="finetune", nproc=2)  # on one machine
    assert [e["message"] for e in listener.of("progress") if "resuming" in e.get("message", "")]
    same_as_one_process(project, make, "lora", epochs=5)
