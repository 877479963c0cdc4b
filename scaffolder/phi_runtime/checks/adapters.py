"""Check adapters against the base model, and against the passes that use them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath

from phi_runtime.checks.sections import Checks
from phi_runtime.config.diagnostics import Finding
from phi_runtime.config.pass_graph import (
    BASE,
    INPUT_ADAPTER,
    adapters_of,
    full_source,
    int4_roundings,
    sources,
    trainings_of,
)
from phi_runtime.config.paths import resolve
from phi_runtime.config.reading.source import KeyPath
from phi_runtime.config.schema import ExportPass, FinetunePass, Pass
from phi_runtime.core.errors import UsageError
from phi_runtime.core.project import project_of
from phi_runtime.core.suggestions import nearest
from phi_runtime.models.peft_folder import problems, read_peft_folder
from phi_runtime.models.place import hub_name
from phi_runtime.models.shape import text_config
from phi_runtime.passes.input_adapter import InputAdapter, base_of, differing
from phi_runtime.training.pass_bases import (
    MERGE_INSTEAD,
    AdapterOutput,
    AdapterPass,
    LayeredAdapter,
    LinearAdapter,
    missing_layer,
)

_MODULES = {
    "target_modules": "linear module",
    "exclude_modules": "linear module",
    "feedforward_modules": "linear module",
    "modules_to_save": "module",
}


def why_not_merged(step: Pass | None) -> str:
    """Return why the output of `step` is an adapter that cannot be added to the weights of its base; "" if it is not."""
    return step.why_not_merged() if isinstance(step, AdapterOutput) else ""


def check_adapter(c: Checks, at: KeyPath, step: AdapterPass) -> Iterator[Finding]:
    """Yield the module names in `step` that the base model does not have, if its files are on this machine."""
    named = {key: names for key in _MODULES if isinstance(names := getattr(step, key, None), list)}
    if isinstance(step, LinearAdapter) and isinstance(step.target_modules, str):
        yield from _pattern(c, (*at, "target_modules"), step.target_modules)
    if step.rounds_base:
        yield from check_rounding(c, at, str(at[-1]))
        for key in ("quant_type", "double_quant"):
            if key in step.model_fields_set and getattr(step, key) != type(step).model_fields[key].default:
                message = f"`{key}` has no effect: with `int4_aware` the base is rounded as in the export"
                yield c.warning((*at, key), "no-effect", message, fix=f"remove {key}, or set int4_aware to false")
    if isinstance(step, LayeredAdapter):
        yield from _missing_layers(c, (*at, "layers_to_transform"), step.layers_to_transform or ())
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


# -- the adapter of the input model ------------------------------------------------------------------------------------


def check_input_adapter(c: Checks) -> Iterator[Finding]:
    """Yield what is wrong with `adapter_path` of the input model, and with passes that train that adapter further."""
    model, step = c.parts.input_model, c.steps.get(INPUT_ADAPTER)
    at: KeyPath = ("input_model", "adapter_path")
    if model is None or not isinstance(step, InputAdapter):
        return
    project = project_of(c.path)
    if not step.folder.is_dir():
        if not hub_name(step.folder, project):
            near = nearest(step.folder.name, [f.name for f in step.folder.parent.glob("*") if f.is_dir()])
            written = PurePosixPath(model.adapter_path or "")
            suggestion = written.with_name(near).as_posix() if near else ""
            yield c.error(at, "file-not-found", f"no adapter at {step.folder}", suggestion)
        return
    if resolve(model.adapter_path or "", c.path).from_root:
        message = f"`{model.adapter_path}` is relative to the project root, not to this file"
        yield c.warning(at, "found-under-root", message)
    try:
        adapter = read_peft_folder(step.folder)
    except UsageError as e:
        yield c.error(at, "adapter", e.what, fix=e.fix)
        return
    for message, fix in problems(adapter, base_of(model, project)):
        yield c.error(at, "adapter", message, fix=fix)
    for name, key, message in differing(c.steps, adapter, model, project):
        yield c.error(("passes", name, key), "contradiction", message)
    names = [data.name for data in c.parts.data_configs if data]
    if len(names) > 1 and not any(isinstance(other, FinetunePass) for other in c.steps.values()):
        message = f"no pass trains, so the rows of the first data config, `{names[0]}`, are the test rows"
        yield c.warning(("data_configs",), "test-rows", message)


def check_rounding(c: Checks, at: KeyPath, name: str) -> Iterator[Finding]:
    """Yield why the int4-aware training `name` cannot round as its exports do."""
    names = list(c.steps)
    if any(not set(adapters_of(c.steps, other)) <= set(names[:i]) for i, other in enumerate(names)):
        return  # another check reports these
    roundings = int4_roundings(c.steps, name)
    first = next(iter(roundings), "")
    exports = {n: s for n, s in c.steps.items() if isinstance(s, ExportPass) and name in trainings_of(c.steps, n)}
    if exports and not roundings:
        other, export_step = next(iter(exports.items()))
        message = f"`int4_aware` has no int4 export: `{other}` has precision {export_step.precision}"
        yield c.warning((*at, "int4_aware"), "no-effect", message, fix="set int4_aware to false")
    for export, rounding in roundings.items():
        if key := exports[export].key_not_trained_for:
            message = f"`int4_aware` cannot round as `{key}` of `{export}` does"
            yield c.error((*at, "int4_aware"), "contradiction", message, fix=f"remove {key} of `{export}`")
        elif rounding != roundings[first]:
            message = f"`int4_aware` rounds as one export, but `{first}` and `{export}` round differently"
            yield c.error((*at, "int4_aware"), "contradiction", message, fix="set int4_aware to false, or change one")


def _missing_layers(c: Checks, at: KeyPath, chosen: Sequence[int]) -> Iterator[Finding]:
    """Yield the indices in `layers_to_transform` that the base model does not have, if its config is on this machine."""
    layers = text_config(c.stored).get("num_hidden_layers")
    for i, layer in enumerate(chosen):
        if isinstance(layers, int) and layer >= layers:
            yield c.error((*at, i), "out-of-range", missing_layer(layer, layers))


def _pattern(c: Checks, at: KeyPath, pattern: str) -> Iterator[Finding]:
    """Yield what is wrong with a regular expression for module names."""
    from phi_runtime.models.stored import known_modules

    try:
        expression = re.compile(pattern)
    except re.error as e:
        yield c.error(at, "target-module", f"`{pattern}` is not a regular expression: {e}")
        return
    modules = known_modules(c.parts.input_model, c.path) if c.parts.input_model else None
    # The names in the files of a model may lack the prefix that they have in the loaded model.
    names = [name for full in modules.linear for name in (full, f"model.{full}")] if modules else []
    if modules and not any(expression.fullmatch(name) for name in names):
        yield c.error(
            at, "target-module", f"no linear module of the model matches `{pattern}`, which must match a full name"
        )


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
        full = [full_source(steps, bases, adapter) for adapter in names]
        other = next((i for i, base in enumerate(full) if base != full[0]), None)
        if not errors and other is not None:
            message = (
                f"`{names[0]}` was trained on {_base_name(full[0])} and `{names[other]}` on "
                f"{_base_name(full[other])}: adapters that are used together must share their base"
            )
            yield c.error((*at, other), "contradiction", message)
        if not isinstance(step, ExportPass) and INPUT_ADAPTER in names:
            for i, adapter in enumerate(names):
                if bases.get(adapter) == INPUT_ADAPTER:
                    message = f"`{adapter}` contains `{INPUT_ADAPTER}`, which it trains further: name one of the two"
                    yield c.error((*at, i), "contradiction", message)
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
    elif not isinstance(trained, AdapterOutput):
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
