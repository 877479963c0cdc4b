"""What each pass starts from: the one place that says how the passes of a config hang together."""

from __future__ import annotations

from collections.abc import Mapping

from phi_runtime.config.schema import FinetunePass, Pass

BASE = "base"


def sources(passes: Mapping[str, Pass]) -> dict[str, str | None]:
    """For each pass the name of the pass whose model it takes, or BASE; None where there is none that it can take.

    Read from top to bottom: a pass takes what the one before it made, as in any chain. An adapter, though, is an end by itself,
    since nothing can be trained on it: a pass that trains after one starts from the base model again, and so makes a further adapter.
    A pass that needs an adapter takes the one that was made last before it, unless another pass has taken that already.
    A pass that names its `adapters` takes the one full model that all of those were trained on.
    """
    found: dict[str, str | None] = {}
    before, kind, adapter = BASE, "hf", None
    taken: set[str | None] = set()
    for name, step in passes.items():
        if adapters := adapters_of(passes, name):
            bases = {found.get(each) if _is_adapter(passes, each) else None for each in adapters}
            found[name] = bases.pop() if len(bases) == 1 else None
            taken |= set(adapters) if step.accepts == "adapter" else set()
        elif step.accepts == "adapter":
            found[name] = None if adapter in taken else adapter
        elif step.accepts == kind:
            found[name] = before
        else:
            found[name] = BASE if kind == "adapter" and isinstance(step, FinetunePass) else None
        before, kind = name, step.produces
        taken.add(found[name])
        adapter = name if kind == "adapter" else adapter
    return found


def adapters_of(passes: Mapping[str, Pass], name: str) -> tuple[str, ...]:
    """The passes whose adapters the pass `name` takes beside its source: those that it names as its `adapters`."""
    return tuple(getattr(passes[name], "adapters", None) or ())


def _is_adapter(passes: Mapping[str, Pass], name: str) -> bool:
    return name in passes and passes[name].produces == "adapter"


def trainings_of(passes: Mapping[str, Pass], name: str) -> tuple[str, ...]:
    """The passes that trained the model of the pass `name` last: itself, or the nearest on the ways to the base model. Several where
    several adapters were put together."""
    if name == BASE:
        return ()
    if isinstance(passes[name], FinetunePass):
        return (name,)
    before = adapters_of(passes, name) or (sources(passes)[name] or BASE,)
    return tuple(dict.fromkeys(training for each in before for training in trainings_of(passes, each)))


def training_of(passes: Mapping[str, Pass], name: str) -> str | None:
    """The first of them."""
    return next(iter(trainings_of(passes, name)), None)


def ladder(passes: Mapping[str, Pass], training: str) -> list[str]:
    """The models that are measured on the held-out rows of the pass `training`: the base model, the one that it started from, its own
    and those that were made of that, until something else was trained on one."""
    start = sources(passes)[training] or BASE
    return list(dict.fromkeys([BASE, start, *(name for name in passes if training in trainings_of(passes, name))]))


def needed(passes: Mapping[str, Pass], name: str) -> set[str]:
    """The pass `name` and all passes whose models it is made of."""
    if name == BASE:
        return set()
    before = [*adapters_of(passes, name), sources(passes)[name] or BASE]
    return {name}.union(*(needed(passes, each) for each in before))
