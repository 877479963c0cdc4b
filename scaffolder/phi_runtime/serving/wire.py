"""What the two processes say to each other: a line of JSON each.

To the worker: first what to load (`Load`), then {"ask": …} with an `Ask`, or {"cancel": id}. It ends with its stdin.
From the worker: {"ready": [a ServedModel each]} or {"failed": …}, then for each answer parts and an end:
{"id": 7, "text": "…", "logprobs": […]} as they come, and at last the same with "finish" and "usage", or {"id": 7, "error": {…}}.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from phi_runtime.core.errors import PhiError, WorkFailed, told
from phi_runtime.inference.generator import Guide, SamplingParams

Part = dict[str, Any]


@dataclass(frozen=True)
class Load:
    """Which models a worker loads: `models` by their names, None being the last one that was made; `adapters` are put beside each of
    them, by name; `parallel` answers are on their way at once, and as many conversations are remembered."""

    project: dict[str, Any]
    overrides: dict[str, Any]
    models: list[str | None]
    adapters: dict[str, str] = field(default_factory=dict)
    parallel: int = 4


@dataclass(frozen=True)
class ServedModel:
    """What clients ask for as `id`: the loaded `model` with `adapter` on it. `converses`: it was trained on conversations; `inputs`
    are the columns of its prompt."""

    id: str
    model: str
    adapter: str | None
    context_length: int
    guides: bool
    converses: bool
    inputs: list[str]
    created: int
    fingerprint: str


@dataclass(frozen=True)
class Ask:
    """One answer that is wanted: to `messages`, which the model's own template renders, or to `prompt` as it stands."""

    id: int
    model: str
    adapter: str | None
    messages: list[dict[str, str]] | None
    prompt: str | None
    sampling: SamplingParams
    stream: bool

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> Ask:
        given = value["sampling"]
        guide = Guide(**given["guide"]) if given["guide"] else None
        sampling = SamplingParams(**{**given, "guide": guide, "stop": tuple(given["stop"])})
        return cls(**{**value, "sampling": sampling})


def failure(error: BaseException) -> dict[str, Any]:
    """What a worker says that cannot load its models; errors.error_of makes the error of it again."""
    return told(error if isinstance(error, PhiError) else WorkFailed(f"{type(error).__name__}: {error}"))
