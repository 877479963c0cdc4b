"""The protocol between this process and its children, on an echo child."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from phi_runtime.core.errors import (
    DataError,
    Interrupted,
    MissingDependency,
    OutOfResources,
    PhiError,
    UsageError,
    WorkFailed,
    from_wire,
    to_wire,
)
from phi_runtime.core.events import Event, silent
from phi_runtime.models.load import missing_runtime
from phi_runtime.workers.failures import Killed, failure_from_exception
from phi_runtime.workers.process import Worker
from tests.conftest import Listener

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks at processes in /proc")

ECHO = [sys.executable, "-P", str(Path(__file__).with_name("echo.py"))]
Start = Callable[..., Worker]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts an echo child, which ends with the test."""
    workers: list[Worker] = []

    def begin(**options: Any) -> Worker:
        workers.append(Worker(ECHO, "the echo", **{"log": tmp_path / "logs" / "echo.log", **options}))
        return workers[-1]

    yield begin
    for worker in workers:
        worker.end()


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def ends(pid: int) -> bool:
    deadline = time.monotonic() + 30
    while is_alive(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not is_alive(pid)


def test_a_child_answers_request_after_request_and_its_events_come_through(start: Start) -> None:
    worker, listener = start(), Listener()
    for value in ("é\n\u2028", [1, 2.5, None], "x" * 3_000_000):
        worker.send({"do": "echo", "value": value})
        assert worker.result(listener) == value
    assert [event.data for event in listener] == [{"done": 1}] * 3


def test_a_child_can_ask_and_is_answered(start: Start) -> None:
    worker = start()
    worker.send({"do": "ask", "value": 20})
    assert worker.result(silent, lambda message: worker.send({"answer": message["question"] + 1})) == 21


def test_neither_side_waits_for_a_pipe_that_is_full(start: Start) -> None:
    worker = start()
    worker.send({"do": "flood", "value": 2000})  # 2 MB, which nobody reads yet
    for number in range(2000):
        worker.send({"do": "echo", "value": [number, "x" * 1000]})
    numbers: list[int] = []
    assert worker.result(silent, lambda message: numbers.append(message["number"])) is None
    assert numbers == list(range(2000))
    assert [worker.result(silent)[0] for _ in range(2000)] == list(range(2000))


def test_what_libraries_print_goes_to_the_log(start: Start) -> None:
    worker = start()
    worker.send({"do": "print"})
    assert worker.result(silent) is None
    worker.end()
    assert worker.log is not None
    assert worker.log.read_text().splitlines()[:2] == ["a library prints", "so does its child"]


def test_what_libraries_print_also_comes_as_messages(start: Start) -> None:
    worker, lines = start(output_messages=True), []
    worker.send({"do": "print"})
    worker.send({"do": "exit", "value": 3})
    for message in worker.messages(silent):
        lines += [message["output"].strip()] if "output" in message else []
    assert worker.failure().what == "the echo ended with exit code 3: 50 %"
    assert [line for line in lines if line] == ["a library prints", "so does its child", "25 %", "50 %"]
    assert worker.log is not None
    assert "so does its child" in worker.log.read_text()


@pytest.mark.parametrize(
    ("request_", "kind", "says"),
    [
        ({"do": "data"}, DataError, "row 3 is empty"),
        ({"do": "disk"}, OutOfResources, "the disk is full"),
        ({"do": "memory"}, OutOfResources, "the echo ran out of memory"),
        ({"do": "import"}, MissingDependency, "no_such_library"),
        ({"do": "fail"}, WorkFailed, "the echo failed: ValueError: odd value"),
        ({"do": "die", "value": signal.SIGINT}, Interrupted, "the echo was stopped"),
        ({"do": "die", "value": signal.SIGTERM}, Interrupted, "was stopped (SIGTERM)"),
        ({"do": "die", "value": signal.SIGKILL}, Killed, "was killed (SIGKILL)"),
        ({"do": "die", "value": signal.SIGSEGV}, WorkFailed, "was killed (SIGSEGV)"),
        ({"do": "exit", "value": 3}, WorkFailed, "ended with exit code 3"),
    ],
)
def test_what_ends_a_child_is_one_error_for_the_user(
    start: Start, request_: dict[str, Any], kind: type[PhiError], says: str
) -> None:
    worker = start()
    worker.send(request_)
    with pytest.raises(PhiError) as caught:
        worker.result(silent)
    assert type(caught.value) is kind
    assert says in caught.value.what
    assert caught.value.fix
    if kind is WorkFailed:
        assert str(worker.log) in caught.value.fix
    if isinstance(caught.value, OutOfResources):
        assert caught.value.resource == ("disk" if request_["do"] == "disk" else "memory")
    if isinstance(caught.value, DataError):
        assert (str(caught.value.where), caught.value.fix) == ("rows.jsonl:3:4", "remove it")


def test_a_missing_library_is_installed_by_the_command_of_this_system(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as windows:
        windows.setattr(os, "name", "nt")
        fixes = [failure_from_exception(ImportError("x"), "y").fix, missing_runtime(ImportError("x")).fix]
    assert all(r"powershell -File setup\setup.ps1" in fix for fix in fixes)


def test_a_child_that_sends_nothing_is_ended_after_a_while(start: Start) -> None:
    worker = start()
    worker.send({"do": "sleep"})
    with pytest.raises(WorkFailed, match=r"the echo sent nothing for 0\.5 s"):
        worker.result(silent, silence_s=0.5)
    assert not is_alive(worker.pid)


def test_a_child_ends_with_its_parent_however_that_ends() -> None:
    parent = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("parent.py"))], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    assert is_alive(child)
    parent.kill()
    parent.communicate(timeout=30)
    assert ends(child)


def test_ctrl_c_here_ends_the_child_with_what_it_started(start: Start) -> None:
    pids: list[int] = []

    def stop(event: Event) -> None:
        pids.append(event.data["pid"])
        raise KeyboardInterrupt

    worker = start()
    worker.send({"do": "grandchild"})
    with pytest.raises(KeyboardInterrupt), worker:
        worker.result(stop)
    assert not is_alive(worker.pid)
    assert ends(pids[0])


def test_a_child_that_is_interrupted_says_so(start: Start) -> None:
    worker = start()
    worker.send({"do": "sleep"})
    with pytest.raises(Interrupted, match="the echo was stopped"):
        worker.result(lambda _: worker.interrupt())
    worker.send({"do": "echo", "value": "still here"})
    assert worker.result(silent) == "still here"


def test_a_child_that_is_hung_up_on_ends_by_itself(start: Start) -> None:
    worker = start()
    worker.hang_up()
    assert worker.receive(30) is None
    assert worker.process.wait(30) == 70


def test_variables_are_given_and_taken_away(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PHI_SECRET", "open sesame")
    worker = start(environment={"PHI_GIVEN": "yes", "PHI_SECRET": None})
    worker.send({"do": "environment", "value": ["PHI_GIVEN", "PHI_SECRET"]})
    assert worker.result(silent) == ["yes", None]


def test_an_error_of_a_subclass_travels_as_the_class_that_has_its_exit_code() -> None:
    class NoSuchFlag(UsageError):
        pass

    error = from_wire(to_wire(NoSuchFlag("no such flag", fix="leave it")))
    assert (type(error), error.what, error.fix, error.exit_code) == (UsageError, "no such flag", "leave it", 2)
    with pytest.raises(KeyError):
        from_wire({**to_wire(error), "kind": "Location"})
