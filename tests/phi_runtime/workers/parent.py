"""A parent for the tests: starts an echo child that sleeps, prints its pid, and waits to be killed."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from phi_runtime.core.events import silent
from phi_runtime.workers.process import Worker

worker = Worker([sys.executable, "-P", str(Path(__file__).with_name("echo.py"))], "the echo")
worker.send({"do": "echo", "value": 1})
worker.result(silent)
worker.send({"do": "sleep"})
print(worker.pid, flush=True)
time.sleep(600)
