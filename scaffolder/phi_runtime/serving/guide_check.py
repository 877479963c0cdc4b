"""Compile guides in a separate process first, with limits of time and memory.

The process of the models gets only those that compile within them, and answers the other requests meanwhile.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path

from phi_runtime.core.errors import WorkFailed
from phi_runtime.core.wire import to_json
from phi_runtime.hardware.device import CORES
from phi_runtime.inference.generator import Guide
from phi_runtime.workers.child import Message
from phi_runtime.workers.process import Worker, python

COMPILE_S = 2.0
"""Seconds that the compilation of a guide may take."""
MEMORY_BYTES = 256 * 1024**2
"""Memory that it may take."""
_LOAD_S = 60.0  # for the process to start and to read a tokenizer
_REMEMBERED = 1000
_SUBJECT = "the process that compiles guides"

Failure = dict[str, str]
_Key = tuple[Path, str]  # folder of the model, and digest of the guide


class GuideCheck:
    """Compiles guides one at a time and remembers the results; the process starts with the first guide.

    Args:
        environment: Variables of the process, in addition to those of this one; None removes one.
        compile_s: Seconds that the compilation of a guide may take.
    """

    def __init__(self, environment: dict[str, str | None], compile_s: float = COMPILE_S) -> None:
        # One heap for all threads: each other one reserves 64 MB of the address space, which the limit counts.
        self.environment = {**environment, "MALLOC_ARENA_MAX": "1", CORES: "1"}
        self.compile_s = compile_s
        self._worker: Worker | None = None
        self._inbox: asyncio.Queue[Message | None] = asyncio.Queue()
        self._results: OrderedDict[_Key, Failure | None] = OrderedDict()
        self._turn = asyncio.Lock()
        self._running: asyncio.Task[None] | None = None

    async def failure(self, model: Path, guide: Guide) -> Failure | None:
        """Return why no answer of the ONNX model in the folder `model` can follow `guide`; None if one can.

        Raises:
            WorkFailed: The process cannot start or read the tokenizer.
        """
        key = model, hashlib.sha256(repr(guide).encode(errors="backslashreplace")).hexdigest()
        async with self._turn:
            if self._running:  # for a client that has gone
                await asyncio.wait([self._running])
            if key not in self._results:
                self._running = asyncio.create_task(self._remember(key, guide))
                await asyncio.shield(self._running)
            self._results.move_to_end(key)
            return self._results[key]

    async def _remember(self, key: _Key, guide: Guide) -> None:
        """Compile `guide` and remember the result, even if the client that sent it has gone."""
        self._results[key] = await self._compile(key[0], guide)
        if len(self._results) > _REMEMBERED:
            self._results.popitem(last=False)

    async def stop(self) -> None:
        """End the process."""
        worker, self._worker = self._worker, None
        if worker:
            await asyncio.shield(asyncio.to_thread(worker.end))

    async def _compile(self, model: Path, guide: Guide) -> Failure | None:
        if self._worker and self._worker.process.poll() is not None:
            await self.stop()
        worker = self._worker = self._worker or self._start()
        worker.send({"model": str(model), "guide": to_json(guide)})
        started = False
        with suppress(TimeoutError):
            async with asyncio.timeout(_LOAD_S):
                started = await self._inbox.get() is not None
        if not started:
            await self.stop()
            raise WorkFailed(f"{_SUBJECT} does not start", fix="its output is above")
        with suppress(TimeoutError):
            async with asyncio.timeout(self.compile_s):
                if message := await self._inbox.get():
                    failure: Failure | None = message["failure"]
                    return failure
        if self._worker is not worker:
            return {"kind": "stopping", "message": "the server is stopping", "fix": ""}
        await self.stop()
        return _too_large(guide, self.compile_s)

    def _start(self) -> Worker:
        loop, inbox = asyncio.get_running_loop(), asyncio.Queue[Message | None]()

        def deliver(message: Message | None) -> None:
            with suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(inbox.put_nowait, message)

        self._inbox = inbox  # messages of the last process go to the last one's
        command = python("phi_runtime.serving.guide_worker")
        return Worker(command, _SUBJECT, environment=self.environment, deliver=deliver)


def _too_large(guide: Guide, compile_s: float) -> Failure:
    message = f"the {guide.name} takes more than {compile_s:g} s or {MEMORY_BYTES >> 20} MB to compile"
    return {"kind": "InvalidGuide", "message": message, "fix": "simplify it"}
