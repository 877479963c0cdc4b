"""Adapters against the model that they are for, and the settings of one adapter against each other."""

from __future__ import annotations

from collections.abc import Iterator

from phi_runtime.checks.sections import Checks
from phi_runtime.config.diagnostics import Finding
from phi_runtime.config.pass_graph import BASE, sources
from phi_runtime.config.reading.source import KeyPath
from phi_runtime.config.schema import ExportPass, Pass
from phi_runtime.core.suggestions import nearest
from phi_runtime.passes.prompt_tuning import USE_UNMERGED
from phi_runtime.training.pass_bases import MERGE_INSTEAD, AdapterPass, LinearAdapter

_MODULES = {
    "target_modules": "linear module",
    "exclude_modules": "linear module",
    "feedforward_modules": "linear module",
    "modules_to_save": "module",
}


def cannot_be_merged(step: Pass | None) -> bool:
    """Whether `step` makes an adapter that stays beside its base for ever."""
    return isinstance(step, AdapterPass) and not step.merges


def check_adapter(c: Checks, at: KeyPath, step: AdapterPass) -> Iterator[Finding]:
    """What is wrong with the adapter that `step`, which stands at `at`, describes."""
    if isinstance(step, LinearAdapter):
        yield from _modules(c, at, step)


def _modules(c: Checks, at: KeyPath, step: LinearAdapter) -> Iterator[Finding]:
    """Names of modules against those that the model really has, where its files are here already."""
    named = {key: names for key in _MODULES if isinstance(names := getattr(step, key, None), list)}
    if c.parts.input_model is None or not named:
        return
    from phi_runtime.models.modules import is_embedding, known_modules, last_names, unknown_module
    from phi_runtime.models.stored import stored_config

    one = next((i for i, name in enumerate(step.modules_to_save or ()) if is_embedding(name)), None)
    tied = bool(stored_config(c.parts.input_model, c.path).get("tie_word_embeddings"))
    if one is not None and tied and not step.ties_embeddings:
        message = (
            f"`{named['modules_to_save'][one]}` is embedding and output head in one, and this kind of adapter would train them "
            "apart: use the type LoRA, DoRA or QLoRA, or take it out"
        )
        yield c.draft.finding((*at, "modules_to_save", one), "contradiction", message)
    modules = known_modules(c.parts.input_model, c.path)
    if modules is None:
        return
    for key, names in named.items():
        known = modules.all if key == "modules_to_save" else modules.linear
        for i, wanted in enumerate(names):
            if wanted != "all-linear" and (fault := unknown_module(_MODULES[key], wanted, known)):
                yield c.draft.finding((*at, key, i), "target-module", fault, nearest(wanted, last_names(known)))


# -- the adapters that another pass takes ------------------------------------------------------------------------------------------


def check_taken(c: Checks) -> Iterator[Finding]:
    """What is wrong with the `adapters` of the passes that put several together or beside an ONNX model."""
    steps = {name: step for name, step in c.parts.passes.items() if step is not None}
    of = sources(steps)
    for name, step in steps.items():
        named: list[str] = getattr(step, "adapters", None) or []
        at: KeyPath = ("passes", name, "adapters")
        faults = [
            c.draft.finding((*at, i), rule, message, suggestion)
            for i, each in enumerate(named)
            for rule, message, suggestion in _fault(name, step, each, named[:i], steps)
        ]
        yield from faults
        bases = {each: of.get(each) for each in named}
        if not faults and len(set(bases.values())) > 1:
            each = next(each for each in named if bases[each] != bases[named[0]])
            message = (
                f"`{named[0]}` was trained on {_called(bases[named[0]])} and `{each}` on {_called(bases[each])}: adapters that are "
                "put together must share their base"
            )
            yield c.draft.finding((*at, named.index(each)), "contradiction", message)
        if named and isinstance(step, ExportPass):
            yield from _runs_there(c, at, step)


def _called(base: str | None) -> str:
    return "the base model" if base in (BASE, None) else f"what `{base}` made"


def _fault(
    name: str, step: Pass, each: str, earlier: list[str], steps: dict[str, Pass]
) -> Iterator[tuple[str, str, str]]:
    """Rule, message and suggestion of what is wrong with `each`, one of the adapters that the pass `name` takes."""
    before = list(steps)[: list(steps).index(name)]
    made = [other for other in before if steps[other].produces == "adapter"]
    trained = steps.get(each)
    if each in earlier:
        yield "duplicate-name", f"`{each}` is named twice", ""
    elif trained is None:
        listed = ", ".join(made) or "none"
        yield (
            "unknown-reference",
            f"there is no pass `{each}` (those that make an adapter before this: {listed})",
            nearest(each, made),
        )
    elif each not in before:
        yield "pass-order", f"`{each}` comes after this pass: write it before", ""
    elif not isinstance(trained, AdapterPass):
        yield "pass-order", f"`{each}` ({trained.type}) makes no adapter", nearest(each, made)
    elif isinstance(step, ExportPass):
        if fault := trained.why_not_graph_input():
            yield "adapter", f"`{each}` ({trained.type}) cannot be put beside an ONNX model: {fault}", ""
    elif cannot_be_merged(trained):
        yield "pass-order", f"`{each}` ({trained.type}) cannot be merged: {USE_UNMERGED}", ""
    elif len(getattr(step, "adapters", None) or []) > 1 and (fault := trained.why_not_combined()):
        yield "adapter", f"`{each}` ({trained.type}) cannot be merged together with others: {fault}", ""


def _runs_there(c: Checks, at: KeyPath, step: ExportPass) -> Iterator[Finding]:
    """What the device or the other options of the export have against adapters."""
    system = c.parts.systems.get(c.parts.target) if isinstance(c.parts.target, str) else None
    if system and "DmlExecutionProvider" in system.accelerators[0].execution_providers:
        message = f"DirectML takes no adapters beside an ONNX model; {MERGE_INSTEAD}"
        yield c.draft.finding(at, "adapter", message)
    if step.enable_cuda_graph:
        message = (
            "a recorded graph (`enable_cuda_graph`) takes no adapters, whose ranks differ: take one of the two out"
        )
        yield c.draft.finding(at, "contradiction", message)
