"""Trials in a process of their own, so that one which is killed for its memory takes nothing else with it.

The search starts `python -m phi_runtime.search.sweep.worker` for each job and sends it lines of JSON: the settings, then one task
after another go in; events, questions to the judge and results come out.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from phi_runtime.core.errors import Interrupted, PhiError, error_of, told
from phi_runtime.core.events import Emit, Event
from phi_runtime.hardware.device import CORES, usable_cores
from phi_runtime.hardware.machine import gpus
from phi_runtime.search.sweep.trial import Judge, TrialResult, TrialSettings, TrialTask, run_trial
from phi_runtime.workers.json_lines import ending, own_stdout

_LOG = "worker.log"


def shares(jobs: int, device: str) -> list[dict[str, str]]:
    """For each of `jobs` processes, what of the machine is its own, as environment variables: a GPU each, shared where there are
    fewer, and the cores in equal parts."""
    cores = str(max(1, usable_cores() // jobs))
    share = {CORES: cores, "OMP_NUM_THREADS": cores, "RAYON_NUM_THREADS": cores}
    if device != "gpu":
        return [dict(share) for _ in range(jobs)]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    cards = [card for card in visible if card] or [str(i) for i in range(len(gpus()))]
    return [share | ({"CUDA_VISIBLE_DEVICES": cards[i % len(cards)]} if cards else {}) for i in range(jobs)]


class Worker:
    """The process of one job, seen from the search. It is started for its first task, and again where it has died."""

    def __init__(self, settings: TrialSettings, share: Mapping[str, str]) -> None:
        self.settings, self.share = settings, share
        self.process: subprocess.Popen[str] | None = None
        self.stopped = False

    def run(self, task: TrialTask, emit: Emit, judge: Judge) -> TrialResult:
        """`run_trial` there. A process that dies of its trial is a failed trial."""
        try:
            process = self._started(task.folder)
            self._send({"task": task.as_dict()})
            assert process.stdout
            for line in process.stdout:
                said = json.loads(line)
                if "event" in said:
                    emit(Event.from_dict(said))
                elif "question" in said:
                    self._send({"end": judge(*said["question"])})
                elif "result" in said:
                    return TrialResult(**said["result"])
                else:
                    raise error_of(said["error"])
            code = process.wait()
        except BrokenPipeError:
            code = process.wait()
        self.process = None
        if self.stopped:
            raise Interrupted("stopped")
        return TrialResult("failed", why=f"{ending(code)}; see {task.folder / 'runs' / _LOG}")

    def interrupt(self) -> None:
        """Asks the trial to save what it has, and to stop."""
        self.stopped = True
        if self.process and self.process.poll() is None and os.name != "nt":  # there Ctrl-C has reached it already
            self.process.send_signal(signal.SIGINT)

    def close(self) -> None:
        """Ends the process, whatever it does."""
        self.stopped = True
        if self.process:
            self.process.kill()
            self.process.wait()

    def _started(self, folder: Path) -> subprocess.Popen[str]:
        if self.process is None or self.process.poll() is not None:
            log = folder / "runs" / _LOG
            log.parent.mkdir(parents=True, exist_ok=True)
            with log.open("a", encoding="utf-8") as stderr:
                self.process = subprocess.Popen(
                    [sys.executable, "-P", "-m", "phi_runtime.search.sweep.worker"],
                    env={**os.environ, **self.share},
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=stderr,
                    encoding="utf-8",
                    start_new_session=True,  # Ctrl-C reaches the search alone, which passes it on once
                )
            self._send({"setting": self.settings.as_dict()})
        return self.process

    def _send(self, message: dict[str, Any]) -> None:
        assert self.process
        assert self.process.stdin
        self.process.stdin.write(json.dumps(message) + "\n")
        self.process.stdin.flush()


def main() -> None:
    """The process itself."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    say = own_stdout()

    def emit(event: Event) -> None:
        say(event.as_dict())

    def judge(percent: int, value: float) -> bool:
        say({"question": [percent, value]})
        answer = sys.stdin.readline()
        if not answer:
            raise Interrupted("the search has gone")
        return bool(json.loads(answer)["end"])

    settings = TrialSettings.from_dict(json.loads(sys.stdin.readline())["setting"])
    while line := sys.stdin.readline():
        try:
            say({"result": asdict(run_trial(settings, TrialTask.from_dict(json.loads(line)["task"]), emit, judge))})
        except KeyboardInterrupt:
            say({"error": told(Interrupted("stopped"))})
        except PhiError as e:
            say({"error": told(e)})


if __name__ == "__main__":
    try:
        main()
    except (KeyboardInterrupt, BrokenPipeError):
        sys.exit(1)
