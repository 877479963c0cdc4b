"""One of the processes that train together: `accelerate launch … -m phi_runtime.training.distributed.worker REQUEST`.

REQUEST is a file that `launch` writes (remote/request.py). What the first process has to tell goes to stdout, a line of JSON
each: its pid, the events, and at the end the facts. A process that fails leaves its error in a file beside REQUEST, and says that
there. What libraries print to stdout goes to stderr. SIGINT to the first process makes all of them save and stop.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import traceback
from dataclasses import replace
from pathlib import Path

from phi_runtime.training.distributed.request import keep_error, read_request
from phi_runtime.workers.json_lines import Tell, own_stdout

WATCHED = "PHI_SCAFFOLD_WATCHED"  # set by `launch`, which holds the other end of stdin
LEFT_ALONE = 70  # the exit code after stdin was closed


def train(request: Path, tell: Tell) -> None:
    """Does this process's part of the pass in `request`."""
    from phi_runtime.data.dataset import load_dataset
    from phi_runtime.models.load import quiet_libraries
    from phi_runtime.training import process_group

    context = read_request(request)
    context.out.mkdir(exist_ok=True)
    quiet_libraries()
    process_group.join_group(cpu=context.workflow.host_device == "cpu")
    if process_group.is_main_process():
        context = replace(context, emit=lambda event: tell(event.as_dict()))
        # The others find it done.
        load_dataset(context.workflow, context.config, context.place, context.emit, context.name)
    else:
        context = replace(context, record=None)
    process_group.barrier()
    facts = context.config.run(context)
    if process_group.is_main_process():
        tell({"facts": facts})
    process_group.leave_group()


def _end_with_parent() -> None:
    """Waits for the end of stdin, which is that of the parent: nobody needs this process then."""

    def watch() -> None:
        while os.read(0, 1):
            pass
        os._exit(LEFT_ALONE)

    threading.Thread(target=watch, daemon=True).start()


def main() -> int:
    tell, request, rank = own_stdout(), Path(sys.argv[1]), os.environ.get("RANK", "0")
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    if WATCHED in os.environ:
        _end_with_parent()
    try:
        if rank == "0":
            tell({"pid": os.getpid()})
        train(request, tell)
    except BaseException as error:
        traceback.print_exc()
        sys.stderr.flush()
        keep_error(error, request, rank)
        tell({"failed": rank})
        os._exit(getattr(error, "exit_code", 1))  # the end of the interpreter would wait for the other processes
    return 0


if __name__ == "__main__":
    sys.exit(main())
