"""The processes of the models of a comparison."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest

from phi_runtime.core.errors import OutOfResources, WorkFailed
from phi_runtime.core.events import silent
from phi_runtime.evaluation import model_processes, worker
from phi_runtime.evaluation.model_processes import ModelProcesses
from phi_runtime.evaluation.worker import ModelTask, RowTask, load_and_work, work_apart
from phi_runtime.models.reference import ModelRef
from phi_runtime.workers.process import Worker

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are copied on Linux")

ROWS = {"base": [RowTask("we won", [3, 4], [[5, 6]]), RowTask(None, [7], [[8]])]}


def until(condition: Callable[[], object], seconds: float = 60) -> None:
    """Wait until the condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def newest_child(process: psutil.Process, log: Path) -> psutil.Process:
    """Return the copy that has opened its log; libraries may have started other processes."""
    until(log.exists)
    return max(process.children(), key=psutil.Process.create_time)


def test_models_share_the_import_of_their_libraries_and_their_figures_are_those_of_a_process_of_their_own(
    tiny_phi3: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[list[str]] = []

    class Counted(Worker):
        def __init__(self, command: list[str], *args: object, **options: object) -> None:
            started.append(command[3:])
            super().__init__(command, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(model_processes, "Worker", Counted)
    monkeypatch.setattr(worker, "Worker", Counted)
    ref = ModelRef(tiny_phi3, "hf", "tiny")
    tasks = [ModelTask(name, ref, rows=ROWS, max_new_tokens=3) for name in ("base", "merged")]
    with ModelProcesses([ref, ref], "cpu", tmp_path) as processes:
        found = [processes.work(task, tmp_path / f"{task.name}.log", silent) for task in tasks]
    assert started == [["phi_runtime.evaluation.model_processes"]]
    assert list(tmp_path.iterdir()) == []
    apart, expected = work_apart(tasks[0], tmp_path / "base.log", silent), load_and_work(tasks[0])
    for results in found:
        for result, same in zip(results.rows["base"], expected.rows["base"], strict=True):
            assert (result.answer, result.finish) == (same.answer, same.finish)
            assert result.logprobs[0] == pytest.approx(same.logprobs[0])
        assert results.performance.peak_rss_bytes == pytest.approx(apart.performance.peak_rss_bytes, rel=0.1)
        assert results.performance.load_s > 0.2 * apart.performance.load_s  # with the import of the libraries


def test_a_model_that_cannot_be_loaded_is_named_in_the_error_and_the_next_one_is_measured(
    tiny_phi3: Path, tmp_path: Path
) -> None:
    broken, ref = ModelRef(tmp_path, "hf", "none"), ModelRef(tiny_phi3, "hf", "tiny")
    with ModelProcesses([broken, ref], "cpu", tmp_path) as processes:
        with pytest.raises(WorkFailed, match=r"^the model `merged` failed") as error:
            processes.work(ModelTask("merged", broken), tmp_path / "merged.log", silent)
        assert "Traceback" in (tmp_path / "merged.log").read_text(encoding="utf-8")
        assert str(tmp_path / "merged.log") in error.value.fix
        assert processes.work(ModelTask("base", ref, rows=ROWS), tmp_path / "base.log", silent).rows


@pytest.mark.slow
def test_a_copy_that_is_killed_ran_out_of_memory_and_one_whose_parent_ends_does_so_too(
    tiny_phi3: Path, tmp_path: Path
) -> None:
    ref = ModelRef(tiny_phi3, "hf", "tiny")
    log = tmp_path / "base.log"
    endless = ModelTask("base", ref, rows={"base": [RowTask("we won", [3], [], "")] * 100_000}, max_new_tokens=100)
    with ThreadPoolExecutor() as pool, ModelProcesses([ref], "cpu", tmp_path) as processes:
        assert processes._copied
        original = psutil.Process(processes._copied.pid)
        first = pool.submit(processes.work, endless, log, silent)
        newest_child(original, log).send_signal(signal.SIGKILL)
        with pytest.raises(OutOfResources) as error:
            first.result(60)
        assert "`base`" in error.value.what
        assert "`batch_size`" in error.value.fix
        log.unlink()
        second = pool.submit(processes.work, endless, log, silent)
        copy = newest_child(original, log)
        processes._copied.hang_up()
        until(lambda: not copy.is_running() or copy.status() == psutil.STATUS_ZOMBIE)
        assert second.exception(60)
