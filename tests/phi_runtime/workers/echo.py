"""A child for the tests: `python echo.py MODE` speaks the worker protocol."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from typing import Any

from phi_runtime.core.errors import DataError, Location
from phi_runtime.core.events import Event
from phi_runtime.workers.child import Parent


def work(parent: Parent, message: dict[str, Any]) -> Any:
    match message["do"]:
        case "echo":
            parent.emit(Event("progress", "echo", {"done": 1}))
            return message["value"]
        case "environment":
            return [os.environ.get(name) for name in message["value"]]
        case "print":
            print("a library prints")
            subprocess.run([sys.executable, "-c", "print('so does its child')"], check=True)
            sys.stderr.write("25 %\r50 %\n")
            return None
        case "ask":
            parent.send({"question": message["value"]})
            return parent.receive()["answer"]
        case "flood":
            for number in range(message["value"]):
                parent.send({"number": number, "filler": "x" * 1000})
            return None
        case "sleep":
            parent.emit(Event("progress", "sleep"))
            time.sleep(600)
        case "die":
            os.kill(os.getpid(), message["value"])
        case "exit":
            os._exit(message["value"])
        case "data":
            raise DataError("row 3 is empty", where=Location("rows.jsonl", 3, 4), fix="remove it")
        case "disk":
            raise OSError(errno.ENOSPC, "No space left on device")
        case "memory":
            raise MemoryError
        case "import":
            import no_such_library  # noqa: F401
        case "fail":
            raise ValueError("odd value\nsecond line")
        case "grandchild":
            child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
            parent.emit(Event("progress", "grandchild", {"pid": child.pid}))
            time.sleep(600)
    return None


if __name__ == "__main__":
    if "ignore" in sys.argv:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    parent = Parent()
    while True:
        request = parent.receive()
        parent.reply(lambda request=request: work(parent, request), "the echo")
