"""Check adapters against the base model, and against the passes that use them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from phi_runtime.checks.sections import Checks
from phi_runtime.config.diagnostics import Finding
from phi_runtime.config.pass_graph import BASE, adapters_of, sources
from phi_runtime.config.reading.source import KeyPath
from phi_runtime.config.schema import ExportPass, Pass
from phi_runtime.core.suggestions import nearest
from phi_runtime.training.pass_bases import MERGE_INSTEAD, AdapterPass, LinearAdapter

_MODULES = {
    "target_modules": "linear module",
    "exclude_modules": "linear module",
    "feedforward_modules": "linear module",
    "modules_to_save": "module",
}


def why_not_merged(step: Pass | None) -> str:
    """Return why the output of `step` is an adapter that cannot be added to the weights of its base; "" if it is not."""
    return step.why_not_merged() if isinstance(step, AdapterPass) else ""


def check_adapter(c: Checks, at: KeyPath, step: AdapterPass) -> Iterator[Finding]:
    """Yield the module names in `step` that the base model does not have, if its files are on this machine."""
    named = {key: names for key in _MODULES if isinstance(names := getattr(step, key, None), list)}
    if c.parts.input_model is None or not named or not isinstance(step, LinearAdapter):
        return
    from phi_runtime.models.modules import is_embedding, last_names, unknown_module
    from phi_runtime.models.stored import known_modules

    embedding = next((i for i, name in enumerate(step.modules_to_save or ()) if is_embedding(name)), None)
    tied = bool(c.stored.get("tie_word_embeddings"))
    if embedding is not None and tied and not step.ties_embeddings:
        message = (
            f"`{named['modules_to_save'][embedding]}` is both embedding and output head, and `{step.type}` would train "
            "them separately: use the type LoRA, DoRA or QLoRA, or remove it"
        )
        yield c.error((*at, "modules_to_save", embedding), "contradiction", message)
    modules = known_modules(c.parts.input_model, c.path)
    if modules is None:
        return
    for key, names in named.items():
        known = modules.all if key == "modules_to_save" else modules.linear
        for i, name in enumerate(names):
            if name != "all-linear" and (message := unknown_module(_MODULES[key], name, known)):
                yield c.error((*at, key, i), "target-module", message, nearest(name, last_names(known)))


# -- adapters that another pass uses -----------------------------------------------------------------------------------


def check_used_adapters(c: Checks) -> Iterator[Finding]:
    """Yield what is wrong with the `adapters` of passes that merge several, or export them next to an ONNX model."""
    steps = c.steps
    bases = sources(steps)
    for name, step in steps.items():
        names = adapters_of(steps, name)
        at: KeyPath = ("passes", name, "adapters")
        errors = [
            c.error((*at, i), rule, message, suggestion)
            for i, adapter in enumerate(names)
            for rule, message, suggestion in _adapter_errors(name, adapter, names[:i], steps)
        ]
        yield from errors
        other = next((i for i, adapter in enumerate(names) if bases.get(adapter) != bases.get(names[0])), None)
        if not errors and other is not None:
            message = (
                f"`{names[0]}` was trained on {_base_name(bases.get(names[0]))} and `{names[other]}` on "
                f"{_base_name(bases.get(names[other]))}: adapters that are used together must share their base"
            )
            yield c.error((*at, other), "contradiction", message)
        if names and isinstance(step, ExportPass):
            yield from _graph_errors(c, at, step)


def _base_name(base: str | None) -> str:
    return "the base model" if base in (BASE, None) else f"the output of `{base}`"


def _adapter_errors(
    name: str, adapter: str, earlier: Sequence[str], steps: dict[str, Pass]
) -> Iterator[tuple[str, str, str]]:
    """Yield rule, message and suggestion for `adapter`, one of those that the pass `name` uses."""
    step, trained = steps[name], steps.get(adapter)
    passes_before = list(steps)[: list(steps).index(name)]
    known = [other for other in passes_before if steps[other].produces == "adapter"]
    if adapter in earlier:
        yield "duplicate-name", f"`{adapter}` is named twice", ""
    elif trained is None:
        message = f"no pass `{adapter}` (passes that train an adapter before this: {', '.join(known) or 'none'})"
        yield "unknown-reference", message, nearest(adapter, known)
    elif adapter not in passes_before:
        yield "pass-order", f"`{adapter}` comes after this pass: move it before", ""
    elif not isinstance(trained, AdapterPass):
        yield "pass-order", f"`{adapter}` ({trained.type}) makes no adapter", nearest(adapter, known)
    elif isinstance(step, ExportPass):
        if reason := trained.why_not_graph_input():
            yield "adapter", f"`{adapter}` ({trained.type}) cannot be exported next to an ONNX model: {reason}", ""
    elif reason := trained.why_not_merged():
        yield "pass-order", f"`{adapter}` ({trained.type}): {reason}", ""
    elif len(adapters_of(steps, name)) > 1 and (reason := trained.why_not_combined()):
        yield "adapter", f"`{adapter}` ({trained.type}) cannot be merged together with others: {reason}", ""


def _graph_errors(c: Checks, at: KeyPath, step: ExportPass) -> Iterator[Finding]:
    """Yield the settings of target and export that exclude adapters next to the ONNX model."""
    if c.provider == "DmlExecutionProvider":
        yield c.error(at, "adapter", f"DirectML does not support adapters next to an ONNX model; {MERGE_INSTEAD}")
    if step.enable_cuda_graph:
        message = "a recorded graph (`enable_cuda_graph`) has no adapters, whose ranks differ: remove one of the two"
        yield c.error(at, "contradiction", message)
