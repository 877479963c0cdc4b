"""The models as the HTTP process sees them: a worker process that answers requests, and is restarted when it dies."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from itertools import count
from typing import Literal

from phi_runtime.core.errors import PhiError, WorkFailed, from_wire
from phi_runtime.core.events import Emit, Event
from phi_runtime.core.wire import from_json, to_json
from phi_runtime.serving.guide_check import GuideCheck
from phi_runtime.serving.wire import MEMORY_FIX, SUBJECT, GenerationRequest, LoadRequest, Part, ServedModel
from phi_runtime.workers.child import Message
from phi_runtime.workers.failures import failure_from_exit_code
from phi_runtime.workers.process import Worker, python

KEY = "PHI_SCAFFOLD_API_KEY"
_STOP_S = 5.0  # for the worker to end by itself

State = Literal["loading", "ready", "stopping"]


class Engine:
    """Starts the worker and sends requests to it.

    Attributes:
        models: The served models by the names that clients use; filled once `state` is "ready".
        guides: Checks guides before requests with them are sent.
    """

    def __init__(self, load: LoadRequest, emit: Emit, on_ready: Callable[[], None]) -> None:
        self.load, self.emit, self.on_ready = load, emit, on_ready
        self.models: dict[str, ServedModel] = {}
        self.state: State = "loading"
        self.guides = GuideCheck({KEY: None})
        self.listeners: dict[int, Callable[[Part], None]] = {}
        self._numbers = count(1)
        self._worker: Worker | None = None

    @property
    def pid(self) -> int | None:
        return self._worker.pid if self._worker else None

    async def run(self) -> None:
        """Keep a worker running until cancelled.

        Raises:
            PhiError: The worker cannot load its models.
        """
        try:
            await self._run_workers()
        finally:
            await self.guides.stop()

    def submit(self, request: GenerationRequest, listener: Callable[[Part], None]) -> int:
        """Send `request` with a new id, and return the id; `listener` receives the parts of the answer."""
        number = next(self._numbers)
        self.listeners[number] = listener
        self._send({"generate": to_json(replace(request, id=number))})
        return number

    def cancel(self, number: int) -> None:
        """Cancel the answer with this id; its listener receives nothing more. Does nothing if it has ended."""
        if self.listeners.pop(number, None):
            self._send({"cancel": number})

    def refuse(self) -> None:
        """Refuse new requests from now on."""
        self.state = "stopping"

    def stop(self) -> None:
        """End the worker and all running answers."""
        self.refuse()
        self._fail_all("stopping", "the server is stopping")
        if self._worker:
            self._worker.hang_up()
            with suppress(ProcessLookupError):
                self._worker.process.terminate()  # does not wait for a computation, as the end of stdin may

    # -- the worker ----------------------------------------------------------------------------------------------------

    async def _run_workers(self) -> None:
        while True:
            try:
                await self._run_worker()
            finally:
                was_ready = self.state == "ready"
                if was_ready:
                    self.state = "loading"  # no worker would answer what is submitted from now on
                kind = "stopping" if self.state == "stopping" else ""
                self._fail_all(kind, f"{SUBJECT} ended before the answer was complete")
                if self._worker:
                    await asyncio.shield(asyncio.to_thread(self._worker.end, _STOP_S))
            if self.state == "stopping":
                return
            if not was_ready:
                raise self._death()
            self.emit(Event("warning", "", {"message": f"{self._death().what}; loading the models again"}))

    async def _run_worker(self) -> None:
        """Start a worker and handle its messages until it ends."""
        loop = asyncio.get_running_loop()
        inbox: asyncio.Queue[Message | None] = asyncio.Queue()

        def deliver(message: Message | None) -> None:
            with suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(inbox.put_nowait, message)

        self._worker = Worker(python("phi_runtime.serving.worker"), SUBJECT, environment={KEY: None}, deliver=deliver)
        self._send(to_json(self.load))
        while (message := await inbox.get()) is not None:
            self._handle(message)

    def _send(self, message: Message) -> None:
        if self._worker:
            self._worker.send(message)

    def _handle(self, message: Message) -> None:
        if "id" in message:
            is_last = "finish" in message or "failure" in message
            listener = (self.listeners.pop if is_last else self.listeners.get)(message["id"], None)
            if listener:
                listener(message)
        elif "ready" in message:
            self.models = {model["id"]: from_json(ServedModel, model) for model in message["ready"]}
            if self.state == "loading":
                self.state = "ready"
                on_ready, self.on_ready = self.on_ready, lambda: None  # only for the first worker
                on_ready()
        else:
            raise from_wire(message["error"])

    def _fail_all(self, kind: str, message: str) -> None:
        listeners, self.listeners = self.listeners, {}
        for number, listener in listeners.items():
            listener({"id": number, "failure": {"kind": kind, "message": message, "fix": ""}})

    def _death(self) -> PhiError:
        code = self._worker.process.returncode if self._worker else None
        return WorkFailed(
            failure_from_exit_code(code, SUBJECT).what,
            fix=f"its output is above; if memory ran out, {MEMORY_FIX}",
        )
