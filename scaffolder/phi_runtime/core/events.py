"""Events of the runtime. The caller displays them; the runtime itself never prints."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from phi_runtime.core.errors import PhiError

EventName = Literal["stage-started", "progress", "metric", "stage-finished", "warning", "error", "run-finished"]


@dataclass(frozen=True)
class Event:
    """An event of a run; docs/json.md lists the keys of `data` for each name.

    `stage` is empty for an event of the whole run.
    """

    event: EventName
    stage: str = ""
    data: dict[str, Any] = field(default_factory=dict)
    time: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="milliseconds"))

    def as_dict(self) -> dict[str, Any]:
        return {"event": self.event, "stage": self.stage, "time": self.time, **self.data}

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> Event:
        """Return the event of which `value` is the `as_dict`."""
        data = dict(value)
        return cls(data.pop("event"), data.pop("stage"), time=data.pop("time"), data=data)


Emit = Callable[[Event], None]


def silent(_: Event) -> None:
    """Ignore an event."""


def warnings_once(emit: Emit) -> Emit:
    """Return a listener that forwards events to `emit`, each warning only once, of whatever stage."""
    emitted: set[str] = set()

    def emit_once(event: Event) -> None:
        if event.event == "warning":
            if event.data["message"] in emitted:
                return
            emitted.add(event.data["message"])
        emit(event)

    return emit_once


def progress_message(stage: str, message: str) -> Event:
    """Return the event for a step of `stage` without a count."""
    return Event("progress", stage, {"done": None, "total": None, "unit": "", "message": message})


def error_event(error: PhiError, stage: str = "") -> Event:
    """Return the event for an error of `stage`, or of the whole command."""
    where = str(error.where) if error.where else None
    data = {"message": error.what, "where": where, "fix": error.fix, "exit_code": error.exit_code}
    return Event("error", stage, data)
