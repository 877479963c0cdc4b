"""The models, as the HTTP side sees them: a process of their own that is asked and answers. It is started anew when it dies."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from itertools import count
from typing import Any, Literal

from phi_runtime.core.errors import PhiError, WorkFailed, error_of
from phi_runtime.core.events import Emit, Event
from phi_runtime.serving.wire import Ask, Load, Part, ServedModel

KEY = "PHI_SCAFFOLD_API_KEY"
_LONGEST_LINE = 64 * 1024 * 1024  # bytes

State = Literal["loading", "ready", "stopping"]


class Engine:
    """`models` by the names that clients ask for, once the `state` is ready."""

    def __init__(self, load: Load, emit: Emit, on_ready: Callable[[], None]) -> None:
        self.load, self.emit, self.on_ready = load, emit, on_ready
        self.models: dict[str, ServedModel] = {}
        self.state: State = "loading"
        self.listeners: dict[int, Callable[[Part], None]] = {}
        self._numbers = count(1)
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    async def run(self) -> None:
        """Keeps a worker alive until it is cancelled. Raises PhiError when one cannot load its models."""
        while True:
            try:
                await self._one_life()
            finally:
                self._tell_all(
                    "stopping" if self.state == "stopping" else "", "the process of the model ended before the answer"
                )
                await self._end()
            if self.state == "stopping":
                return
            if self.state == "loading":
                raise self._death()
            self.state = "loading"
            self.emit(Event("warning", "", {"message": f"{self._death().what}; the models are loaded again"}))

    def ask(self, ask: Callable[[int], Ask], listener: Callable[[Part], None]) -> int:
        """Sends what `ask` makes of a new id; `listener` gets the parts of the answer."""
        number = next(self._numbers)
        self.listeners[number] = listener
        self._send({"ask": ask(number).as_dict()})
        return number

    def cancel(self, number: int) -> None:
        """The answer is not wanted any more; nothing more comes of it. Nothing happens when it has ended."""
        if self.listeners.pop(number, None):
            self._send({"cancel": number})

    def refuse(self) -> None:
        """Nothing new is taken in from now on."""
        self.state = "stopping"

    def stop(self) -> None:
        """Ends the worker and all answers that are on their way."""
        self.refuse()
        self._tell_all("stopping", "the server is stopping")
        if self._process:
            with suppress(ProcessLookupError):
                self._process.terminate()

    # -- the process ---------------------------------------------------------------------------------------------------

    async def _one_life(self) -> None:
        environment = {name: value for name, value in os.environ.items() if name != KEY}
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-P",  # the project's folder datasets/ is not the library of that name
            "-m",
            "phi_runtime.serving.worker",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=environment,
            limit=_LONGEST_LINE,
            start_new_session=os.name != "nt",  # Ctrl-C at the terminal is for this process alone
        )
        self._send(asdict(self.load))
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            self._hear(json.loads(line))

    def _send(self, message: dict[str, Any]) -> None:
        stdin = self._process.stdin if self._process else None
        if stdin is None or stdin.is_closing():
            return  # it has died: who listens is told so by `run`
        stdin.write(json.dumps(message).encode() + b"\n")

    def _hear(self, message: dict[str, Any]) -> None:
        if "id" in message:
            ends = "finish" in message or "error" in message
            listener = (self.listeners.pop if ends else self.listeners.get)(message["id"], None)
            if listener:
                listener(message)
        elif "ready" in message:
            self.models = {each["id"]: ServedModel(**each) for each in message["ready"]}
            if self.state == "loading":
                self.state = "ready"
                on_ready, self.on_ready = self.on_ready, lambda: None  # a later worker takes the place of this one
                on_ready()
        else:
            raise error_of(message["failed"])

    def _tell_all(self, kind: str, message: str) -> None:
        listeners, self.listeners = self.listeners, {}
        for number, listener in listeners.items():
            listener({"id": number, "error": {"kind": kind, "message": message, "fix": ""}})

    async def _end(self) -> None:
        process = self._process
        if process is None:
            return
        if process.stdin:
            process.stdin.close()
        try:
            await asyncio.wait_for(process.wait(), 5)
        except (TimeoutError, asyncio.CancelledError):
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    def _death(self) -> PhiError:
        code = self._process.returncode if self._process else None
        how = f"ended with exit code {code}"
        if code is not None and code < 0:
            how = f"was killed ({signal.Signals(-code).name if -code in set(signal.Signals) else -code})"
        return WorkFailed(
            f"the process of the models {how}",
            fix="what it said is above; if memory ran out, serve fewer models or lower --parallel and --max-tokens",
        )
