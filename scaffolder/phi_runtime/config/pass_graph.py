"""The pass graph: which pass consumes the output of which."""

from __future__ import annotations

from collections.abc import Mapping

from phi_runtime.config.schema import ExportPass, FinetunePass, Pass
from phi_runtime.config.schema.export import Int4Rounding

BASE = "base"
INPUT_ADAPTER = "input_adapter"
"""The pass of `input_model.adapter_path`; it is before those that the config lists."""


def sources(passes: Mapping[str, Pass]) -> dict[str, str | None]:
    """Return the source of each pass: a pass name, BASE for the base model, or None if no model fits.

    Passes are read in order, and each one takes the output of the previous pass, with these exceptions:

    - An adapter ends its branch, because nothing can be trained on it. A pass that trains after one starts from
      the base model and so creates another adapter.
    - A pass that takes an adapter takes the latest one that no other pass has consumed.
    - A pass with a list of `adapters` takes the full model on which all of them were trained.
    - With an adapter of the input model, such a pass that creates an adapter trains that one further.
    """
    result: dict[str, str | None] = {}
    previous, kind, adapter = BASE, "hf", None
    consumed: set[str | None] = set()
    for name, step in passes.items():
        if adapters := adapters_of(passes, name):
            bases = {full_source(passes, result, each) if _is_adapter(passes, each) else None for each in adapters}
            result[name] = bases.pop() if len(bases) == 1 else None
            consumed |= set(adapters) if step.accepts == "adapter" else set()
        elif step.accepts == "adapter":
            result[name] = None if adapter in consumed else adapter
        elif step.accepts == kind:
            result[name] = previous
        else:
            result[name] = _start(passes, step) if kind == "adapter" and isinstance(step, FinetunePass) else None
        previous, kind = name, step.produces
        consumed.add(result[name])
        adapter = name if kind == "adapter" else adapter
    return result


def full_source(passes: Mapping[str, Pass], sources: Mapping[str, str | None], adapter: str) -> str | None:
    """Return the pass (or BASE) whose full model the adapter of the pass `adapter` is for."""
    source = sources.get(adapter)
    return sources.get(source) if source == INPUT_ADAPTER and source in passes else source


def _start(passes: Mapping[str, Pass], step: Pass) -> str | None:
    """Return the source of a pass that trains from the start of the chain; None if it is an adapter and cannot be."""
    if INPUT_ADAPTER not in passes:
        return BASE
    return INPUT_ADAPTER if step.produces == "adapter" else None


def is_trained_further(passes: Mapping[str, Pass]) -> bool:
    """Return True if a pass trains the adapter of the input model further."""
    starts = sources(passes)
    return any(starts[name] == INPUT_ADAPTER and step.produces == "adapter" for name, step in passes.items())


def adapters_of(passes: Mapping[str, Pass], name: str) -> tuple[str, ...]:
    """Return the passes whose adapters the pass `name` takes in addition to its source (its key `adapters`)."""
    return tuple(getattr(passes[name], "adapters", None) or ())


def _is_adapter(passes: Mapping[str, Pass], name: str) -> bool:
    return name in passes and passes[name].produces == "adapter"


def trainings_of(passes: Mapping[str, Pass], name: str) -> tuple[str, ...]:
    """Return the passes that trained the output of the pass `name` last: itself, or its nearest ancestors that train.

    The adapter of the input model counts as one that trains.

    There are several if several adapters were combined.
    """
    if name == BASE:
        return ()
    if name == INPUT_ADAPTER or isinstance(passes[name], FinetunePass):
        return (name,)
    parents = adapters_of(passes, name) or (sources(passes)[name] or BASE,)
    return tuple(dict.fromkeys(training for parent in parents for training in trainings_of(passes, parent)))


def training_of(passes: Mapping[str, Pass], name: str) -> str | None:
    """Return the first of `trainings_of`."""
    return next(iter(trainings_of(passes, name)), None)


def compared_models(passes: Mapping[str, Pass], training: str) -> list[str]:
    """Return the models that are measured on the test rows of the pass `training`.

    These are the base model, the model that the training started from, its output, and what was derived from
    that until another pass trained it.
    """
    start = sources(passes)[training] or BASE
    return list(dict.fromkeys([BASE, start, *(name for name in passes if training in trainings_of(passes, name))]))


def int4_roundings(passes: Mapping[str, Pass], training: str) -> dict[str, Int4Rounding]:
    """Return the roundings of the int4 models that are built from the output of the pass `training`, by their passes."""
    return {
        name: step.int4_rounding
        for name, step in passes.items()
        if isinstance(step, ExportPass) and step.precision == "int4" and training in trainings_of(passes, name)
    }


def trained_rounding(passes: Mapping[str, Pass], training: str) -> Int4Rounding:
    """Return the rounding that the pass `training` is aware of: that of its int4 export, or the default without one."""
    return next(iter(int4_roundings(passes, training).values()), Int4Rounding())


def with_ancestors(passes: Mapping[str, Pass], name: str) -> set[str]:
    """Return the pass `name` and all passes that its output depends on."""
    if name == BASE:
        return set()
    parents = [*adapters_of(passes, name), sources(passes)[name] or BASE]
    return {name}.union(*(with_ancestors(passes, parent) for parent in parents))
