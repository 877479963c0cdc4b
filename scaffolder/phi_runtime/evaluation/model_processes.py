"""A process for each model of a comparison, without importing the libraries in each.

The models of transformers run in copies (fork) of a process that has imported its libraries and loaded nothing: importing them
takes longer than loading a small model. A copy sends its results itself; the process that it was copied from waits for its end,
so that it can send why it ended without any.
"""

from __future__ import annotations

import os
import select
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

from phi_runtime.core.errors import to_wire
from phi_runtime.core.events import Emit
from phi_runtime.core.wire import from_json, to_json
from phi_runtime.evaluation.worker import (
    MEMORY_FIX,
    Libraries,
    ModelResults,
    ModelTask,
    load_and_work,
    subject_of,
    work_apart,
)
from phi_runtime.hardware.process_memory import mapped_bytes
from phi_runtime.models.reference import ModelRef
from phi_runtime.workers.child import PARENT_GONE, Parent
from phi_runtime.workers.failures import failure_from_exit_code
from phi_runtime.workers.process import Worker, python

_LOG = "models.log"


class ModelProcesses:
    """The processes of the models of a comparison; a context manager, which ends them.

    The import of the libraries starts at once, next to the work of this process. Copies need a system that can copy a process
    with these libraries (Linux), and models on the CPU: a driver of a GPU cannot be used in a copy. Other models get a process
    that imports what they need.

    Args:
        models: The models.
        device: torch device for those that are not ONNX.
        folder: Folder of the log of the process that is copied.
    """

    def __init__(self, models: Sequence[ModelRef], device: str, folder: Path) -> None:
        self._copied: Worker | None = None
        if sys.platform == "linux" and device == "cpu" and any(ref.kind != "onnx" for ref in models):
            self._log = folder / _LOG
            command = python("phi_runtime.evaluation.model_processes")
            self._copied = Worker(command, "the comparison", log=self._log, memory_fix=MEMORY_FIX)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._copied:
            self._copied.end()
            self._log.unlink(missing_ok=True)

    def work(self, task: ModelTask, log: Path, emit: Emit) -> ModelResults:
        """Do the work of `task` in a separate process, and return its results; arguments and errors as for `work_apart`."""
        if self._copied is None or task.ref.kind == "onnx":
            return work_apart(task, log, emit)
        self._copied.subject, self._copied.log = subject_of(task), log
        self._copied.send({"task": to_json(task), "log": str(log)})
        results = from_json(ModelResults, self._copied.result(emit))
        log.unlink(missing_ok=True)
        return results


def import_libraries() -> None:
    """Import what every model of transformers needs."""
    from phi_runtime.models.load import quiet_libraries

    quiet_libraries()
    import torch  # noqa: F401
    import transformers.generation
    import transformers.modeling_utils
    import transformers.models.auto.modeling_auto
    import transformers.models.auto.tokenization_auto  # noqa: F401

    import phi_runtime.inference.batches
    import phi_runtime.inference.transformers  # noqa: F401


def _work_in_copy(parent: Parent, task: ModelTask, log: Path, libraries: Libraries) -> None:
    """Work on `task` and end this process, which is a copy."""
    code = 1
    try:
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        for standard in (1, 2):
            os.dup2(output, standard)
        threading.Thread(target=_end_with_parent, daemon=True).start()
        parent.reply(lambda: to_json(load_and_work(task, libraries)), subject_of(task), memory_fix=MEMORY_FIX)
        sys.stderr.flush()
        code = 0
    finally:
        os._exit(code)


def _end_with_parent() -> None:
    """End this process once stdin is closed, without reading from it: what comes is for the process that was copied."""
    closed = select.poll()
    closed.register(0, 0)  # POLLHUP is always reported
    closed.poll()
    os._exit(PARENT_GONE)


def main() -> None:
    """Import the libraries, and work on each task from stdin in a copy of this process."""
    import json

    parent = Parent(ends_with_stdin=False)
    started = time.perf_counter()
    with suppress(ImportError):  # a copy imports it again, and sends the error
        import_libraries()
    libraries = Libraries(time.perf_counter() - started, mapped_bytes())
    for line in sys.stdin.buffer:
        message = json.loads(line)
        task = from_json(ModelTask, message["task"])
        pid = os.fork()
        if not pid:
            _work_in_copy(parent, task, Path(message["log"]), libraries)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if code:
            error = failure_from_exit_code(code, subject_of(task), memory_fix=MEMORY_FIX)
            parent.send({"error": to_wire(error)})


if __name__ == "__main__":
    main()
