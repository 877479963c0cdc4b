"""Translate the export: the options of ModelBuilder, and the multi-step ONNX export of older Olive."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from phi_runtime.config.dialects.draft import Draft
from phi_runtime.config.dialects.keys import (
    BUILDER_KEYS,
    BUILDER_LISTS,
    BUILDER_NAMES,
    CLASSIC_EXPORT,
    EXTRACT_OPTIONS,
    PASSES,
    translate_keys,
)
from phi_runtime.config.pass_graph import INPUT_ADAPTER
from phi_runtime.config.reading.source import KeyPath
from phi_runtime.config.schema import BuilderOptions
from phi_runtime.config.schema.registry import pass_types
from phi_runtime.core.suggestions import nearest


def translate_export(draft: Draft) -> None:
    """Replace the multi-step export by one ModelBuilder pass, and merge an adapter before it."""
    _classic_export(draft)
    _merge_before_export(draft)


def translate_builder(draft: Draft, at: KeyPath) -> None:
    """Translate the options of a ModelBuilder pass."""
    extra = (*at, "extra_options")
    for key in draft.keys(extra):
        new = BUILDER_NAMES.get(key, key)
        _from_command_line(draft, (*extra, key), new)
        if new in BUILDER_KEYS:
            message = f"`{key}` moved out of `extra_options`" + (f", to `{new}`" if new != key else "")
            draft.move((*extra, key), (*at, new), message)
    for key, new in BUILDER_NAMES.items():
        if draft.has((*at, key)):
            draft.rename((*at, key), new)
    fused = (*extra, "disable_qkv_fusion")
    if isinstance(off := draft.get(fused), bool):
        draft.replace(fused, not off, "`fuse_qkv` is the opposite of `disable_qkv_fusion`")
        draft.rename(fused, "fuse_qkv")
    translate_keys(draft, extra, BuilderOptions)
    for key in draft.keys(extra):
        if key not in BuilderOptions.model_fields:  # the nearest match may be a key of the pass
            known = (*BuilderOptions.model_fields, *BUILDER_KEYS, *BUILDER_NAMES)
            draft.refuse((*extra, key), f"unknown key `{key}`", nearest(key, known), rule="unknown-key")


def _from_command_line(draft: Draft, at: KeyPath, name: str) -> None:
    """Convert a string, as the builder's `--extra_options key=value` has it, to the type of the option `name`."""
    value = draft.get(at)
    if not isinstance(value, str):
        return
    if name in BUILDER_LISTS:
        draft.replace(at, value.split(BUILDER_LISTS[name]), f"`{at[-1]}` is now a list")
    elif value.lower() in ("true", "false"):
        draft.replace(at, value.lower() == "true", f"`{at[-1]}` is now `{value.lower()}` without quotes")
    elif value.removeprefix("-").isdigit():
        draft.replace(at, int(value), f"`{at[-1]}` is now a number")


def _classic_export(draft: Draft) -> None:
    """Replace OnnxConversion, OrtTransformersOptimization, ExtractAdapters and ModelBuilder(metadata_only) by one ModelBuilder.

    Extracted adapters become its `adapters`; otherwise the adapter is merged into the model.
    """
    kinds = {name: draft.get((*PASSES, name, "type")) for name in draft.keys(PASSES)}
    steps = [n for n, kind in kinds.items() if isinstance(kind, str) and kind in CLASSIC_EXPORT]
    builders = [n for n in kinds if kinds[n] == "ModelBuilder"]
    metadata = [n for n in builders if draft.get((*PASSES, n, "metadata_only")) is True]
    if not steps and not metadata:
        return
    for name in steps:
        draft.unnest((*PASSES, name, "config"))
    adapters = _extracted(draft, kinds)
    only_extracts = all(kinds[n] == "ExtractAdapters" for n in steps)
    builder = metadata[0] if metadata else builders[0] if builders and only_extracts else steps[0]
    at = (*PASSES, builder)
    replaced = " → ".join(str(kinds[n]) for n in kinds if n in steps or n in metadata or n == builder)
    where = f"with separate adapters {', '.join(adapters)}" if adapters else "with the adapter merged"
    message = f"{replaced} replaced by one ModelBuilder pass, {where}"
    if metadata:
        draft.drop((*at, "metadata_only"), message, changes_result=True)
    elif builder in steps:
        precision = _classic_precision(draft, steps, kinds)
        draft.replace(at, {"type": "ModelBuilder", "precision": precision}, message, changes_result=True)
    if adapters:
        draft.set_default((*at, "adapters"), adapters, "ExtractAdapters kept them separate", cause=at)
    for name in [*steps, *metadata]:
        if name != builder:
            reason = f"`{builder}` (ModelBuilder) replaces it"
            if kinds[name] == "ExtractAdapters" and not adapters:
                reason += "; the adapter remains in gen-model/adapter"
            draft.drop((*PASSES, name), reason)
    if builder not in builders or metadata:
        draft.reorder(PASSES, [*(n for n in draft.keys(PASSES) if n != builder), builder])  # the builder comes last


def _extracted(draft: Draft, kinds: dict[str, Any]) -> list[str]:
    """Return the passes whose adapters an ExtractAdapters pass extracts; refuse its options that are not supported.

    Empty without such a pass, or if the adapter before it is merged or not a LoRA.
    """
    names = list(kinds)
    extract = next((n for n in names if kinds[n] == "ExtractAdapters"), None)
    if extract is None or "MergeAdapterWeights" in kinds.values():
        return []
    adapters = [n for n in names[: names.index(extract)] if _adds_low_rank(kinds[n])]
    if has_input_adapter(draft):
        adapters.insert(0, INPUT_ADAPTER)
    if not adapters:
        return []
    at = (*PASSES, extract)
    for key in draft.keys(at):
        value, option = draft.get((*at, key)), EXTRACT_OPTIONS.get(key)
        if key == "type":
            continue
        if option is None:
            draft.refuse((*at, key), f"unknown key `{key}`", nearest(key, list(EXTRACT_OPTIONS)), rule="unknown-key")
        elif option.values and str(value).lower() not in option.values:
            draft.refuse(
                (*at, key), f"`{key}: {str(value).lower()}` is not supported: {option.reason}", option.values[0]
            )
        else:
            draft.drop((*at, key), option.reason)
    return adapters


def _classic_precision(draft: Draft, steps: list[str], kinds: dict[str, Any]) -> str:
    precisions = [CLASSIC_EXPORT[kinds[n]] for n in steps]
    if "int4" in precisions:
        return "int4"
    half = any(
        draft.get((*PASSES, n, "float16")) is True or draft.get((*PASSES, n, "torch_dtype")) == "float16" for n in steps
    )
    return "fp16" if half or "fp16" in precisions else "fp32"


def _merge_before_export(draft: Draft) -> None:
    """Insert a merge before a ModelBuilder that follows an adapter, unless it keeps the adapter separate."""
    kinds = {name: draft.get((*PASSES, name, "type")) for name in draft.keys(PASSES)}
    if "MergeAdapterWeights" in kinds.values():
        return
    names = list(kinds)
    if has_input_adapter(draft):
        kinds[INPUT_ADAPTER] = "LoRA"  # of whatever type it is, it can be merged or a check says why not
    for previous, name in pairwise(n for n in (INPUT_ADAPTER, *names) if n in kinds):
        separate = draft.has((*PASSES, name, "adapters"))
        if _merges(kinds[previous]) and kinds[name] == "ModelBuilder" and not separate:
            unused = next(n for n in ("merge", "merge_adapter_weights", "merge_adapter") if n not in kinds)
            draft.set_default((*PASSES, unused), {"type": "MergeAdapterWeights"}, "an adapter is merged before the export",
                              cause=(*PASSES, name), changes_result=True)  # fmt: skip
            place = names.index(name)
            draft.reorder(PASSES, [*names[:place], unused, *names[place:]])
            return


def has_input_adapter(draft: Draft) -> bool:
    """Return True if the input model has an adapter, which is a pass before those of the config."""
    return isinstance(draft.get(("input_model", "adapter_path")), str)


def _merges(kind: object) -> bool:
    """Return True for the type of a pass whose adapter can be merged into its base."""
    return isinstance(kind, str) and kind in pass_types() and pass_types()[kind].merges


def _adds_low_rank(kind: object) -> bool:
    """Return True for the type of a pass whose adapter can be an input of an ONNX graph."""
    return isinstance(kind, str) and kind in pass_types() and pass_types()[kind].adds_low_rank
