"""One of the processes that train together: `accelerate launch … -m phi_runtime.training.distributed.worker REQUEST`.

REQUEST is the file of `request.write_request`. The first process of a machine sends its pid; the first of all sends the events
too, and at the end the result. A process that fails keeps its error in a file next to REQUEST and sends {"failed": rank}.
SIGINT or SIGTERM to one process makes all of them save and stop.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from dataclasses import replace
from pathlib import Path

from phi_runtime.core.signals import interrupt
from phi_runtime.training.distributed.request import keep_error, read_request
from phi_runtime.workers.child import Parent

WATCHED = "PHI_SCAFFOLD_WATCHED"
"""Set by `launch`, which holds the other end of stdin; a process that a user started has any stdin."""


def train(request: Path, parent: Parent) -> None:
    """Run this process's part of the pass in `request`."""
    from phi_runtime.data.dataset import load_dataset
    from phi_runtime.models.load import quiet_libraries
    from phi_runtime.training import process_group

    context = read_request(request)
    context.out.mkdir(exist_ok=True)
    quiet_libraries()
    process_group.join_group(cpu=context.workflow.host_device == "cpu")
    if process_group.is_main_process():
        context = replace(context, emit=parent.emit)
        # Prepares the rows once; the other processes then read them from the cache.
        load_dataset(context.workflow, context.config, context.data, context.emit, context.name)
    else:
        context = replace(context, record=None)
    process_group.barrier()
    facts = context.config.run(context)
    if process_group.is_main_process():
        parent.send({"result": facts})
    process_group.leave_group()


def main() -> int:
    """Train this process's share of the request in argv."""
    parent = Parent(ends_with_stdin=WATCHED in os.environ)
    signal.signal(signal.SIGTERM, interrupt)  # which cluster managers send to every process
    request, rank = Path(sys.argv[1]), os.environ.get("RANK", "0")
    try:
        if os.environ.get("LOCAL_RANK", "0") == "0":
            parent.send({"pid": os.getpid()})
        train(request, parent)
    except BaseException as error:
        traceback.print_exc()
        sys.stderr.flush()
        keep_error(error, request, rank)
        parent.send({"failed": rank})
        os._exit(getattr(error, "exit_code", 1))  # a normal exit would wait for the other processes
    return 0


if __name__ == "__main__":
    sys.exit(main())
