"""Events that the runtime emits. The caller renders them; the runtime never prints."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

EventName = Literal["stage-started", "progress", "metric", "stage-finished", "warning", "error", "run-finished"]


@dataclass(frozen=True)
class Event:
    """One event of a run. The keys of `data` depend on the name:

    - stage-started: `index`, `count`
    - progress: `done`, `total` (None if unknown), `unit`, and the stage's measurements (`loss`, `learning_rate`, …)
    - metric: the stage's own figures
    - stage-finished: `state` ("cached" | "done"), `output`, `wall_s`, and the stage's summary figures
    - warning, error: `message`
    - run-finished: `wall_s`, `state`
    """

    event: EventName
    stage: str = ""
    data: dict[str, Any] = field(default_factory=dict)
    time: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="milliseconds"))

    def as_dict(self) -> dict[str, Any]:
        return {"event": self.event, "stage": self.stage, "time": self.time, **self.data}

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> Event:
        """Return the event that `as_dict` described."""
        data = dict(value)
        return cls(data.pop("event"), data.pop("stage"), time=data.pop("time"), data=data)


Emit = Callable[[Event], None]


def silent(_: Event) -> None:
    """Discard the event."""
