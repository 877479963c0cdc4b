"""Translate the export: the options of ModelBuilder, and the multi-step ONNX export of older Olive."""

from __future__ import annotations

from itertools import pairwise

from phi_runtime.config.dialects.draft import MISSING, NOTHING_LEFT, Draft
from phi_runtime.config.dialects.key_table import fix_values
from phi_runtime.config.dialects.keys import BUILDER_KEYS, BUILDER_LISTS, BUILDER_NAMES, PASSES, translate_keys
from phi_runtime.config.dialects.pass_names import CLASSIC_EXPORT, EMBEDDING_SURGERY, EXTRACT_OPTIONS, SURGERIES
from phi_runtime.config.dialects.pass_types import pass_kinds
from phi_runtime.config.dialects.quantizers import translate_quantizers
from phi_runtime.config.pass_graph import INPUT_ADAPTER
from phi_runtime.config.reading.source import KeyPath
from phi_runtime.config.schema import BuilderOptions, ExportPass
from phi_runtime.config.schema.registry import pass_type
from phi_runtime.core.suggestions import nearest


def translate_export(draft: Draft) -> None:
    """Replace the multi-step export by one ModelBuilder pass, and merge an adapter before it."""
    _classic_export(draft)
    translate_quantizers(draft)
    _merge_before_export(draft)


def translate_builder(draft: Draft, at: KeyPath) -> None:
    """Translate the options of a ModelBuilder pass."""
    extra = (*at, "extra_options")
    had_options = bool(draft.keys(extra))
    draft.unnest((*at, "quantization_config"))
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
    fix_values(draft, at, ExportPass)
    if draft.get((*at, "int4_accuracy_level")) == 0:
        draft.drop((*at, "int4_accuracy_level"), "0 leaves the choice to the builder")
    operators = draft.items((*at, "int4_op_types_to_quantize"))
    if any(name != "Gemm" for name in operators):
        for i in reversed([i for i, name in enumerate(operators) if name == "Gemm"]):
            draft.drop((*at, "int4_op_types_to_quantize", i), "the builder makes no such operator")
    for key in draft.keys(extra):
        if key not in BuilderOptions.model_fields:  # the nearest match may be a key of the pass
            known = (*BuilderOptions.model_fields, *BUILDER_KEYS, *BUILDER_NAMES)
            draft.refuse((*extra, key), f"unknown key `{key}`", nearest(key, known), rule="unknown-key")
    if had_options and draft.get(extra) == {}:
        draft.drop(extra, NOTHING_LEFT)


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
    """Let one ModelBuilder be the export: the one that the config has, or one in place of the passes of CLASSIC_EXPORT.

    Extracted adapters become its `adapters`; otherwise the adapter is merged into the model.
    """
    kinds = pass_kinds(draft)
    steps = [n for n, kind in kinds.items() if kind in CLASSIC_EXPORT]
    builders = [n for n in kinds if kinds[n] == "ModelBuilder"]
    metadata = [n for n in builders if draft.get((*PASSES, n, "metadata_only")) is True]
    complete = [n for n in builders if n not in metadata]
    if not steps and not metadata:
        return
    for name in steps:
        draft.unnest((*PASSES, name, "config"))
    adapters = _extracted(draft, kinds)
    small_embedding = [n for n in steps if _surgeries(draft, (*PASSES, n))]
    builder = next(iter([*complete, *metadata, *steps]))
    at = (*PASSES, builder)
    replaced = " → ".join(kinds[n] for n in kinds if n in steps or n in metadata or n == builder)
    where = f"with separate adapters {', '.join(adapters)}" if adapters else "with the adapter merged"
    message = f"{replaced} replaced by one ModelBuilder pass, {where}"
    precision, cause = _classic_precision(draft, steps, kinds)
    as_qdq = next((n for n in steps if kinds[n] == "MatMulNBitsToQDQ"), None)
    if builder in metadata:
        draft.drop((*at, "metadata_only"), message, changes_result=True)
        if draft.get((*at, "precision")) == precision != "fp32":
            place = draft.source_path(cause)
            draft.replace((*at, "precision"), precision, f"`{cause[-1]}` sets the precision of the graph")
            draft.set_source_path((*at, "precision"), place)
    elif builder in steps:
        place = draft.source_path(cause)
        draft.replace(at, {"type": "ModelBuilder", "precision": precision}, message, changes_result=True)
        draft.set_source_path((*at, "precision"), place)
    elif precision == "fp16" and draft.get((*at, "precision")) == "fp32":
        place = draft.source_path(cause)
        draft.replace((*at, "precision"), precision, f"`precision` is now `fp16`: `{cause[1]}` converts the graph")
        draft.set_source_path((*at, "precision"), place)
    if adapters:
        draft.set_default((*at, "adapters"), adapters, "ExtractAdapters kept them separate", cause=at)
    if as_qdq and not draft.has((*at, "use_qdq")):
        draft.set_default((*at, "use_qdq"), True, "MatMulNBitsToQDQ writes standard operators", cause=(*PASSES, as_qdq))
    mixed = (*at, "extra_options", "matmul_mixed_precision")
    if small_embedding and draft.get((*at, "precision")) == "int4" and not draft.has(mixed):
        reason = "the embedding, if it is also the output head, and the head have 8 bits"
        draft.set_default(mixed, "last_matmul:int8", reason, cause=(*PASSES, small_embedding[0]))
    for name in [*steps, *metadata]:
        if name != builder:
            reason = f"`{builder}` (ModelBuilder) builds the complete, optimized graph"
            if kinds[name] == "ExtractAdapters" and not adapters:
                reason += "; the adapter remains in gen-model/adapter"
            draft.drop((*PASSES, name), reason)
    if builder not in complete:
        draft.reorder(PASSES, [*(n for n in draft.keys(PASSES) if n != builder), builder])  # the builder comes last


def _surgeries(draft: Draft, at: KeyPath) -> bool:
    """Refuse the surgeries of a GraphSurgeries pass that make another graph than the builder's.

    Returns:
        True if one of them stores the embedding in 8 bits.
    """
    places = [(*at, "surgeries", i) for i in range(len(draft.items((*at, "surgeries"))))]
    names = {place: draft.get((*place, "surgeon")) for place in places}
    known = {name.casefold() for name in SURGERIES}
    for place, name in reversed(names.items()):
        if name is MISSING:
            draft.refuse(place, "the key `surgeon` is missing", rule="missing-key")
        elif str(name).casefold() not in known:
            message = f"graph surgery `{name}` is not supported: ONNX Runtime GenAI needs the graph of ModelBuilder"
            draft.refuse(place, message, fix="remove this surgery, or run it with Olive on the exported model")
    return any(str(name).casefold() == EMBEDDING_SURGERY.casefold() for name in names.values())


def _extracted(draft: Draft, kinds: dict[str, str]) -> list[str]:
    """Return the passes whose adapters an ExtractAdapters pass extracts; refuse its options that are not supported.

    Empty without such a pass, or if the adapter before it is merged or not a LoRA.
    """
    names = list(kinds)
    extract = next((n for n in names if kinds[n] == "ExtractAdapters"), None)
    if extract is None:
        return []
    at = (*PASSES, extract)
    for key in draft.keys(at):
        if key not in ("type", *EXTRACT_OPTIONS):
            draft.refuse((*at, key), f"unknown key `{key}`", nearest(key, list(EXTRACT_OPTIONS)), rule="unknown-key")
    adapters = [n for n in names[: names.index(extract)] if getattr(pass_type(kinds[n]), "adds_low_rank", False)]
    if has_input_adapter(draft):
        adapters.insert(0, INPUT_ADAPTER)
    if not adapters or "MergeAdapterWeights" in kinds.values():
        return []
    for key in [key for key in draft.keys(at) if key != "type"]:
        value, option = draft.get((*at, key)), EXTRACT_OPTIONS[key]
        if option.values and str(value).lower() not in option.values:
            draft.refuse(
                (*at, key), f"`{key}: {str(value).lower()}` is not supported: {option.reason}", option.values[0]
            )
        else:
            draft.drop((*at, key), option.reason)
    return adapters


def _classic_precision(draft: Draft, steps: list[str], kinds: dict[str, str]) -> tuple[str, KeyPath]:
    """Return the precision of the graph that `steps` make, and the place of the key or pass that sets it."""
    for name in steps:
        for key, value in (("float16", True), ("torch_dtype", "float16")):
            if draft.get((*PASSES, name, key)) == value:
                return "fp16", (*PASSES, name, key)
        if CLASSIC_EXPORT[kinds[name]]:
            return CLASSIC_EXPORT[kinds[name]], (*PASSES, name)
    return "fp32", (*PASSES, steps[0]) if steps else PASSES


def _merge_before_export(draft: Draft) -> None:
    """Insert a merge before a ModelBuilder that follows an adapter, unless it keeps the adapter separate."""
    kinds = pass_kinds(draft)
    if "MergeAdapterWeights" in kinds.values():
        return
    names = list(kinds)
    if has_input_adapter(draft):
        kinds[INPUT_ADAPTER] = "LoRA"  # of whatever type it is, it can be merged or a check says why not
    for previous, name in pairwise(n for n in (INPUT_ADAPTER, *names) if n in kinds):
        separate = draft.has((*PASSES, name, "adapters"))
        merges = getattr(pass_type(kinds[previous]), "merges", False)
        if merges and kinds[name] == "ModelBuilder" and not separate:
            unused = next(n for n in ("merge", "merge_adapter_weights", "merge_adapter") if n not in kinds)
            draft.set_default((*PASSES, unused), {"type": "MergeAdapterWeights"}, "an adapter is merged before the export",
                              cause=(*PASSES, name), changes_result=True)  # fmt: skip
            place = names.index(name)
            draft.reorder(PASSES, [*names[:place], unused, *names[place:]])
            return


def has_input_adapter(draft: Draft) -> bool:
    """Return True if the input model has an adapter, which is a pass before those of the config."""
    return isinstance(draft.get(("input_model", "adapter_path")), str)
