"""Work on a candidate in a process of its own: its peak memory is its own, and one that crashes takes nothing else with it.

`python -m phi_runtime.search.optimize.worker` reads its settings and one task, a line of JSON each, on stdin; events and at last the
result come out. It ends when the process that started it does.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import traceback
from typing import Any

from phi_runtime.core.errors import (
    Interrupted,
    MissingDependency,
    OutOfResources,
    PhiError,
    WorkFailed,
    error_of,
    told,
)
from phi_runtime.core.events import Emit, Event
from phi_runtime.search.optimize.task import CandidateSettings, CandidateTask
from phi_runtime.workers.json_lines import ending, own_stdout

LOG = "worker.log"
_ASKED_TO_END = (signal.SIGINT, signal.SIGTERM)  # as a system does that shuts down


class CandidateFailed(WorkFailed):
    """It is this candidate that cannot be built, does not pass its gate, does not run or needs too much memory."""


def work_apart(settings: CandidateSettings, task: CandidateTask, emit: Emit) -> dict[str, Any]:
    """`work.carry_out` in another process. Raises CandidateFailed for what is the candidate's own fault, a crash included, and other
    PhiErrors for what would befall any; ends the process where this one is interrupted."""
    log = task.folder / LOG
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w", encoding="utf-8") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "phi_runtime.search.optimize.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            encoding="utf-8",
            start_new_session=True,  # Ctrl-C reaches this process alone, which ends the other with all that it started
        )
    assert process.stdin
    assert process.stdout
    try:
        process.stdin.write(f"{json.dumps(settings.as_dict())}\n{json.dumps(task.as_dict())}\n")
        process.stdin.flush()
        for line in process.stdout:
            said = json.loads(line)
            if "event" in said:
                emit(Event.from_dict(said))
            elif "result" in said:
                result: dict[str, Any] = said["result"]
                return result
            else:
                error = error_of(said["error"])
                error.fix = error.fix or f"the details are in {log}"
                raise CandidateFailed(error.what, fix=error.fix) if said["own"] else error
        code = process.wait()
    except BrokenPipeError:
        code = process.wait()
    finally:
        _end(process)
    if -code in _ASKED_TO_END:
        raise Interrupted("stopped", fix="the next call goes on from what is there")
    raise CandidateFailed(ending(code), fix=f"the details are in {log}")


def _end(process: subprocess.Popen[str]) -> None:
    """Ends the process with the builder that it may have started."""
    if process.poll() is None:
        if os.name == "nt":
            process.kill()
        else:
            os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe:
            try:
                pipe.close()
            except BrokenPipeError:
                continue


# -- the process itself ------------------------------------------------------------------------------------------------------------


def main() -> None:
    """Reads settings and task, works, tells."""
    say = own_stdout()
    settings = CandidateSettings.from_dict(json.loads(sys.stdin.readline()))
    task = CandidateTask.from_dict(json.loads(sys.stdin.readline()))
    threading.Thread(target=_end_with_starter, daemon=True).start()

    from phi_runtime.search.optimize.work import execute

    try:
        say({"result": execute(settings, task, lambda event: say(event.as_dict()))})
    except Exception as e:
        traceback.print_exc()
        error = _explained(e)
        say({"error": told(error), "own": isinstance(error, CandidateFailed)})


def _explained(error: Exception) -> PhiError:
    """What it died of; CandidateFailed where others need not die of it."""
    if isinstance(error, PhiError):
        memory = isinstance(error, OutOfResources) and "disk" not in error.what  # of which another may need less
        own = isinstance(error, WorkFailed) or memory
        return CandidateFailed(error.what, fix=error.fix) if own else error
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return OutOfResources("the disk is full", fix="free some space; the next call goes on from what is there")
    if isinstance(error, ImportError):
        return MissingDependency(f"a library is not installed: {error}", fix="run setup/setup.sh again")
    if isinstance(error, MemoryError):
        return CandidateFailed("it needs more memory than there is")
    first = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
    return CandidateFailed(f"it does not run: {first}")


def _end_with_starter() -> None:
    """Ends this process, and the builder it may have started, when nobody is there any more to be told."""
    while os.read(0, 4096):
        pass
    if os.name == "nt":
        os._exit(1)
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    try:
        main()
    except (KeyboardInterrupt, BrokenPipeError):
        sys.exit(1)
