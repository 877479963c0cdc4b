"""What each pass starts from: the one place that says how the passes of a config hang together."""

from __future__ import annotations

from collections.abc import Mapping

from phi_runtime.workflow.schema import FinetunePass, Pass

BASE = "base"


def sources(passes: Mapping[str, Pass]) -> dict[str, str | None]:
    """For each pass the name of the pass whose model it takes, or BASE; None where there is none that it can take.

    Read from top to bottom: a pass takes what the one before it made, as in any chain. An adapter, though, is an end by itself,
    since nothing can be trained on it: a pass that trains after one starts from the base model again, and so makes a further adapter.
    A pass that needs an adapter takes the one that was made last before it, unless another pass has taken that already.
    """
    found: dict[str, str | None] = {}
    before, kind, adapter = BASE, "hf", None
    for name, step in passes.items():
        if step.accepts == "adapter":
            found[name] = None if adapter in found.values() else adapter
        elif step.accepts == kind:
            found[name] = before
        else:
            found[name] = BASE if kind == "adapter" and isinstance(step, FinetunePass) else None
        before, kind = name, step.produces
        adapter = name if kind == "adapter" else adapter
    return found


def training_of(passes: Mapping[str, Pass], name: str) -> str | None:
    """The pass that trained the model of the pass `name` last: itself, or the nearest on the way to the base model."""
    of, at = sources(passes), name
    while at != BASE and not isinstance(passes[at], FinetunePass):
        at = of[at] or BASE
    return None if at == BASE else at


def ladder(passes: Mapping[str, Pass], training: str) -> list[str]:
    """The models that are measured on the held-out rows of the pass `training`: the base model, the one that it started from, its own
    and those that were made of that, until something else was trained on one."""
    start = sources(passes)[training] or BASE
    return list(dict.fromkeys([BASE, start, *(name for name in passes if training_of(passes, name) == training)]))


def needed(passes: Mapping[str, Pass], name: str) -> set[str]:
    """The pass `name` and all passes whose models it is made of."""
    of, found = sources(passes), set()
    at: str | None = name
    while at is not None and at != BASE:
        found.add(at)
        at = of[at]
    return found
