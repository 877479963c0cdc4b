"""Adapters against the model that they are for, and the settings of one adapter against each other."""

from __future__ import annotations

from collections.abc import Iterator

from phi_runtime.checks.sections import Checks
from phi_runtime.config.diagnostics import Finding
from phi_runtime.config.pass_graph import BASE, sources
from phi_runtime.config.reading.source import KeyPath
from phi_runtime.config.schema import (
    IA3,
    AdapterPass,
    DoRA,
    LinearAdapter,
    LoRA,
    ModelBuilder,
    Pass,
    PromptTuning,
    QLoRA,
)
from phi_runtime.core.suggestions import nearest

_MODULES = {
    "target_modules": "linear module",
    "exclude_modules": "linear module",
    "feedforward_modules": "linear module",
    "modules_to_save": "module",
}
USE_AS_IT_IS = (
    "learned tokens cannot be merged into the weights: take this pass out and use the adapter itself "
    "(`phi-scaffold chat --model adapter`)"
)
MERGE_INSTEAD = "merge it instead: MergeAdapterWeights before a ModelBuilder of its own"


def cannot_be_merged(step: Pass | None) -> bool:
    """Whether `step` makes an adapter that stays beside its base for ever."""
    return isinstance(step, AdapterPass) and not step.merges


def check_adapter(c: Checks, at: KeyPath, step: AdapterPass) -> Iterator[Finding]:
    """What is wrong with the adapter that `step`, which stands at `at`, describes."""
    if isinstance(step, QLoRA) and step.int4_aware:
        message = "`int4_aware` is for LoRA: the base of a QLoRA has 4 bits already"
        yield c.draft.finding((*at, "int4_aware"), "contradiction", message)
    if isinstance(step, PromptTuning):
        yield from _prompt(c, at, step)
    if isinstance(step, IA3):
        targets = step.target_modules
        for i, name in enumerate(step.feedforward_modules or ()):
            if targets is not None and targets != ["all-linear"] and name not in targets:
                message = f"`{name}` is in feedforward_modules and not in target_modules, where it belongs as well"
                yield c.draft.finding((*at, "feedforward_modules", i), "contradiction", message)
    if isinstance(step, LinearAdapter):
        yield from _modules(c, at, step)


def _prompt(c: Checks, at: KeyPath, step: PromptTuning) -> Iterator[Finding]:
    if step.prompt_tuning_init == "text" and step.prompt_tuning_init_text is None:
        message = "`prompt_tuning_init` is text, and there is none: write prompt_tuning_init_text"
        yield c.draft.finding((*at, "prompt_tuning_init"), "contradiction", message)
    if step.prompt_tuning_init == "random" and step.prompt_tuning_init_text is not None:
        message = "`prompt_tuning_init_text` needs `prompt_tuning_init`: text"
        yield c.draft.finding((*at, "prompt_tuning_init_text"), "contradiction", message)


def _modules(c: Checks, at: KeyPath, step: LinearAdapter) -> Iterator[Finding]:
    """Names of modules against those that the model really has, where its files are here already."""
    named = {key: names for key in _MODULES if isinstance(names := getattr(step, key, None), list)}
    if c.parts.input_model is None or not named:
        return
    from phi_runtime.models.modules import is_embedding, known_modules, last_names, unknown_module
    from phi_runtime.models.stored import stored_config

    one = next((i for i, name in enumerate(step.modules_to_save or ()) if is_embedding(name)), None)
    tied = bool(stored_config(c.parts.input_model, c.path).get("tie_word_embeddings"))
    if one is not None and tied and not isinstance(step, LoRA):
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
        if named and isinstance(step, ModelBuilder):
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
        yield "pass-order", f"`{each}` ({_type(trained)}) makes no adapter", nearest(each, made)
    elif isinstance(step, ModelBuilder):
        if fault := not_beside_a_graph(trained):
            yield "adapter", f"`{each}` ({_type(trained)}) cannot be put beside an ONNX model: {fault}", ""
    elif cannot_be_merged(trained):
        yield "pass-order", f"`{each}` ({_type(trained)}) cannot be merged: {USE_AS_IT_IS}", ""
    elif len(getattr(step, "adapters", None) or []) > 1 and (fault := _not_beside_another(trained)):
        yield "adapter", f"`{each}` ({_type(trained)}) cannot be merged together with others: {fault}", ""


def not_beside_a_graph(step: AdapterPass) -> str:
    """Why what `step` makes cannot be matrices beside the products of a graph; empty where it can."""
    from phi_runtime.models.modules import is_embedding

    if isinstance(step, PromptTuning):
        return f"learned tokens are no part of the graph; {USE_AS_IT_IS}"
    if not isinstance(step, LoRA) or isinstance(step, DoRA):
        return f"only LoRA and QLoRA can; {MERGE_INSTEAD}"
    if step.modules_to_save:
        return f"it trains {', '.join(step.modules_to_save)} whole; {MERGE_INSTEAD}"
    if embeddings := [name for name in step.target_modules or () if is_embedding(name)]:
        return f"it changes {embeddings[0]}, which has no place for an adapter in the graph; {MERGE_INSTEAD}"
    return ""


def _not_beside_another(step: AdapterPass) -> str:
    """Why what `step` makes cannot be added to what others make; empty where it can."""
    if not isinstance(step, LoRA) or isinstance(step, DoRA):
        return "only the changes of LoRA and QLoRA add up; merge it alone"
    if step.modules_to_save:
        return f"it trains {', '.join(step.modules_to_save)} whole, and two of one module do not add up; merge it alone"
    return ""


def _runs_there(c: Checks, at: KeyPath, step: ModelBuilder) -> Iterator[Finding]:
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


def _type(step: Pass) -> str:
    kind: str = step.type  # type: ignore[attr-defined]
    return kind
