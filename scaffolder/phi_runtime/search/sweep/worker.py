"""Trials in worker processes, so that one that is killed for its memory ends nothing else.

The search sends the settings, then one task after another. The worker sends events, {"question": [percent, value]} at each
evaluation, which is answered by {"prune": true | false}, and a result for each task.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from phi_runtime.core.errors import Interrupted, OutOfResources, PhiError, WorkFailed, to_wire
from phi_runtime.core.events import Emit, Event
from phi_runtime.core.wire import from_json, to_json
from phi_runtime.hardware.device import share_of, usable_cores
from phi_runtime.hardware.machine import gpus
from phi_runtime.search.sweep.trial import Judge, TrialResult, TrialSettings, TrialTask, run_trial
from phi_runtime.workers.child import Message, Parent
from phi_runtime.workers.failures import Killed
from phi_runtime.workers.process import Worker, python

_LOG = "worker.log"


def shares(jobs: int, device: str) -> list[dict[str, str]]:
    """Return the environment variables that give each of `jobs` processes its share of the machine.

    The cores are divided evenly. Each process gets one GPU; with fewer GPUs than processes, they share them.
    """
    share = share_of(max(1, usable_cores() // jobs))
    if device != "gpu":
        return [dict(share) for _ in range(jobs)]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    cards = [card for card in visible if card] or [str(i) for i in range(len(gpus()))]
    return [share | ({"CUDA_VISIBLE_DEVICES": cards[i % len(cards)]} if cards else {}) for i in range(jobs)]


class TrialWorker:
    """The process of one job. It starts with its first task, and again after a trial that ended it."""

    def __init__(self, settings: TrialSettings, share: Mapping[str, str]) -> None:
        self.settings, self.share = settings, share
        self.worker: Worker | None = None
        self.stopped = False

    def run(self, task: TrialTask, emit: Emit, judge: Judge) -> TrialResult:
        """Run `run_trial` in the process. A trial that ends its process is a failed trial; a killed one is resumed once.

        Raises:
            PhiError: What would end any trial, as `run_trial` raises it.
        """
        try:
            return self._run(task, emit, judge)
        except Killed as e:
            emit(Event("warning", task.name, {"message": f"{e.what}; {task.name} is resumed once"}))
        try:
            return self._run(task, emit, judge)
        except Killed as e:
            return TrialResult("failed", why=f"{e.what}; {e.fix}")

    def _run(self, task: TrialTask, emit: Emit, judge: Judge) -> TrialResult:
        """Run the trial in the process, which is started if there is none. Raises Killed if someone ended it."""
        if self.worker is None or self.worker.process.poll() is not None:
            self.worker = self._started(task.folder)
        worker = self.worker

        def answer(message: Message) -> None:
            worker.send({"prune": judge(*message["question"])})

        worker.send(to_json(task))
        try:
            return from_json(TrialResult, worker.result(emit, answer))
        except PhiError as e:
            if worker.process.poll() is None:  # sent by the worker, which can go on
                raise
            self.worker = None
            if self.stopped:
                raise Interrupted("stopped") from None
            if isinstance(e, Killed) or not isinstance(e, WorkFailed | OutOfResources):
                raise
            return TrialResult("failed", why=f"{e.what}; see {worker.log}")

    def interrupt(self) -> None:
        """Let the trial save its checkpoint and stop."""
        self.stopped = True
        if self.worker:
            self.worker.interrupt()

    def close(self) -> None:
        """Kill the process."""
        self.stopped = True
        if self.worker:
            self.worker.end()

    def _started(self, folder: Path) -> Worker:
        worker = Worker(
            python("phi_runtime.search.sweep.worker"),
            "the trial",
            log=folder / "runs" / _LOG,
            environment=self.share,
        )
        worker.send(to_json(self.settings))
        return worker


def main() -> None:
    """Run the trials that arrive on stdin."""
    parent = Parent()

    def judge(percent: int, value: float) -> bool:
        parent.send({"question": [percent, value]})
        return bool(parent.receive()["prune"])

    settings = from_json(TrialSettings, parent.receive())
    while True:
        task = from_json(TrialTask, parent.receive())
        try:
            parent.send({"result": to_json(run_trial(settings, task, parent.emit, judge))})
        except KeyboardInterrupt:
            parent.send({"error": to_wire(Interrupted("stopped"))})
        except PhiError as e:
            parent.send({"error": to_wire(e)})


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):  # between two tasks
        main()
