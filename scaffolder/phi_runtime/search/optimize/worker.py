"""Work on a candidate in a worker process: its peak memory is measured apart from this process, and a crash ends nothing else.

The worker gets {"settings": …, "task": …} and sends events and one result.
"""

from __future__ import annotations

from typing import Any

from phi_runtime.core.errors import Interrupted, OutOfResources, PhiError, WorkFailed
from phi_runtime.core.events import Emit, Event
from phi_runtime.core.wire import from_json, to_json
from phi_runtime.search.optimize.task import CandidateSettings, CandidateTask
from phi_runtime.workers.child import Parent
from phi_runtime.workers.failures import Killed
from phi_runtime.workers.process import Worker, python

LOG = "worker.log"
_MEMORY_FIX = "free memory, or choose a smaller precision"


class CandidateFailed(WorkFailed):
    """The candidate cannot be built, fails its gate, does not run, or needs too much memory; others may still succeed."""


def work_apart(settings: CandidateSettings, task: CandidateTask, emit: Emit) -> dict[str, Any]:
    """Run `work.execute` in a worker process and return its result. A process that is killed is started once more.

    Raises:
        CandidateFailed: The candidate failed, by a crash too.
        PhiError: What would end any candidate: a full disk, a missing library, an interruption.
    """
    try:
        try:
            return _result(settings, task, emit)
        except Killed as e:
            emit(Event("warning", task.name, {"message": f"{e.what}; it is started once more"}))
            return _result(settings, task, emit)
    except Interrupted as e:
        raise Interrupted(e.what, fix="`phi-scaffold optimize` resumes with the other candidates") from None
    except PhiError as e:
        if isinstance(e, WorkFailed) or (isinstance(e, OutOfResources) and e.resource == "memory"):
            raise CandidateFailed(e.what, fix=e.fix) from None
        raise


def _result(settings: CandidateSettings, task: CandidateTask, emit: Emit) -> dict[str, Any]:
    command = python("phi_runtime.search.optimize.worker")
    with Worker(command, f"candidate `{task.name}`", log=task.folder / LOG, memory_fix=_MEMORY_FIX) as worker:
        worker.send({"settings": to_json(settings), "task": to_json(task)})
        result: dict[str, Any] = worker.result(emit)
        return result


def main() -> None:
    """Work on the candidate of the request on stdin."""
    parent = Parent()
    request = parent.receive()
    settings, task = from_json(CandidateSettings, request["settings"]), from_json(CandidateTask, request["task"])

    def work() -> dict[str, Any]:
        from phi_runtime.search.optimize.work import execute

        return execute(settings, task, parent.emit)

    parent.reply(work, f"candidate `{task.name}`", memory_fix=_MEMORY_FIX)


if __name__ == "__main__":
    main()
