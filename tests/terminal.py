"""A process on a pseudo-terminal, as a person uses it."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.zygote import default_interrupt

needs_terminal = pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")


@dataclass
class Terminal:
    """A process on a pseudo-terminal."""

    process: subprocess.Popen[bytes]
    controller: int
    seen: str = ""

    def type(self, text: str) -> None:
        os.write(self.controller, text.encode())

    def until(self, text: str, timeout_s: float = 120) -> str:
        """Return what is shown up to and with `text`, from where the last call ended."""
        deadline = time.monotonic() + timeout_s
        while text not in self.seen:
            assert time.monotonic() < deadline, self.seen
            if select.select([self.controller], [], [], 0.1)[0]:
                try:
                    self.seen += os.read(self.controller, 4096).decode(errors="replace")
                except OSError:  # the process has ended
                    assert text in self.seen, self.seen
        shown, _, self.seen = self.seen.partition(text)
        return shown + text

    def interrupt(self) -> None:
        self.process.send_signal(signal.SIGINT)

    def end(self) -> int:
        return self.process.wait(timeout=60)


@contextmanager
def terminal(*arguments: str | Path, cwd: Path | None = None, **environment: str) -> Iterator[Terminal]:
    """Start `python ARGUMENTS` on a terminal."""
    import pty

    controller, end = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        stdin=end, stdout=end, stderr=end, start_new_session=True, cwd=cwd, preexec_fn=default_interrupt,
        env={k: v for k, v in os.environ.items() if k != "NO_COLOR"} | {"TERM": "xterm", **environment},
    )  # fmt: skip
    os.close(end)
    try:
        yield Terminal(process, controller)
    finally:
        process.kill()
        process.wait()
        os.close(controller)
