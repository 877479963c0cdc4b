"""The passes of older Olive forms, and the searches over them, → the canonical form."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from phi_runtime.config.dialects.apply import respell, type_name
from phi_runtime.config.dialects.draft import EMPTY, MISSING, Draft
from phi_runtime.config.dialects.keys import BUILDER_KEYS, BUILDER_LISTS, BUILDER_NAMES, CLASSIC_EXPORT, EXTRACT_OPTIONS
from phi_runtime.config.dialects.training_keys import OFTEN_IN_THE_PASS, OPTIMIZERS, OPTIMIZERS_REFUSED, TRAINING_NAMES
from phi_runtime.config.reading.source import KeyPath, Source
from phi_runtime.config.schema import (
    AcceleratorConfig,
    BuilderOptions,
    FinetunePass,
    FsdpConfig,
    GradientCheckpointing,
    SearchStrategy,
    TrainingArgs,
)
from phi_runtime.config.schema.registry import known_names, load, pass_types
from phi_runtime.core.suggestions import nearest

PASSES: KeyPath = ("passes",)
_SWEEP: KeyPath = ("sweep",)


def translate_passes(draft: Draft, old: bool) -> None:
    """`old` says that the config is in the form before 0.7, whose defaults were others."""
    if not isinstance(draft.get(PASSES), dict):
        return
    _flows(draft)
    for name in draft.keys(PASSES):
        at = (*PASSES, name)
        if isinstance(draft.get(at), list) and len(draft.get(at)) == 1:
            draft.replace(at, draft.get(at)[0], "one alternative is no list")
            draft.place(at, (*draft.written(at), 0))
        elif isinstance(draft.get(at), list):
            draft.refuse(at, f"`{name}` has {len(draft.get(at))} alternatives: describe what to search in sweep.yaml")
        if not isinstance(draft.get(at), dict):
            continue
        type_name(draft, (*at, "type"), (*known_names(), *CLASSIC_EXPORT))
        kind = draft.get((*at, "type"))
        if not isinstance(kind, str) or kind in CLASSIC_EXPORT:
            continue
        load(kind)
        if kind not in pass_types():
            continue
        respell(draft, at, pass_types()[kind])
        _own_host(draft, at)
        if issubclass(pass_types()[kind], FinetunePass):
            _finetune(draft, at, old)
        if kind == "ModelBuilder":
            _builder(draft, at)
    _training_config(draft)
    _classic_export(draft)
    _merge_before_export(draft)


def _training_types() -> list[str]:
    return [name for name, kind in pass_types().items() if issubclass(kind, FinetunePass)]


def training_passes(draft: Draft) -> list[str]:
    return [n for n in draft.keys(PASSES) if draft.get((*PASSES, n, "type")) in _training_types()]


def _flows(draft: Draft) -> None:
    """`pass_flows`, up to 0.7: lists of pass names, each an order to run them in."""
    at: KeyPath = ("pass_flows",)
    flows = draft.get(at)
    if not isinstance(flows, list):
        return
    passes = draft.get(PASSES)
    order = flows[0] if len(flows) == 1 and isinstance(flows[0], list) else None
    if order is None or not all(isinstance(n, str) and n in passes for n in order):
        draft.refuse(at, "`pass_flows`: name the passes in the order in which they run instead")
        return
    for name in [n for n in passes if n not in order]:
        draft.drop((*PASSES, name), "`pass_flows` does not run it")
    draft.arrange(PASSES, list(dict.fromkeys(order)))
    draft.drop(at, "the passes stand in their order")


def _own_host(draft: Draft, at: KeyPath) -> None:
    host = (*at, "host")
    if not draft.has(host):
        return
    if draft.get(host) in (None, draft.get(("host",))):
        draft.drop(host, "it is that of all passes")
    else:
        draft.refuse(host, "all passes run on the `host` of the config: take this one out")


# -- training --------------------------------------------------------------------------------------------------------------


def _finetune(draft: Draft, at: KeyPath, old: bool) -> None:
    arguments = (*at, "training_args")
    for key in draft.keys(at):
        if key in OFTEN_IN_THE_PASS:
            draft.move((*at, key), (*arguments, key), f"`{key}` belongs to `training_args`")
    _training_args(draft, arguments, at)
    if draft.get((*at, "bias")) == "none":
        draft.drop((*at, "bias"), "biases are never trained")
    size, held_out = (*at, "eval_dataset_size"), draft.get((*at, "eval_data_config"))
    if old and draft.has(size) and held_out is not MISSING and held_out is not None:
        draft.drop(size, "Olive took `eval_data_config` where both were written")
    for key in ("target_modules", "modules_to_save", "feedforward_modules", "layers_pattern"):
        if isinstance(draft.get((*at, key)), str):
            draft.replace((*at, key), [draft.get((*at, key))], f"`{key}` is a list")
    for key in ("train_data_config", "eval_data_config"):
        _inline_data(draft, (*at, key))
    _only_data(draft, (*at, "train_data_config"))
    has_dropout = "lora_dropout" in pass_types()[draft.get((*at, "type"))].model_fields
    if old and has_dropout and not draft.has((*at, "lora_dropout")):
        draft.put((*at, "lora_dropout"), 0.0, "the default when this form was current; today's is 0.05")


def _training_args(draft: Draft, at: KeyPath, step: KeyPath) -> None:
    respell(draft, at, TrainingArgs)
    for key, dtype in (("bf16", "bfloat16"), ("fp16", "float16")):
        if draft.get((*at, key)) is True and not draft.has((*step, "torch_dtype")):
            draft.put((*step, "torch_dtype"), dtype, f"`{key}` is `torch_dtype` of the pass", because=(*at, key))
        if isinstance(draft.get((*at, key)), bool):
            draft.drop((*at, key), "`torch_dtype` of the pass says it")
    if isinstance(draft.get((*at, "tf32")), bool):
        draft.move((*at, "tf32"), (*step, "allow_tf32"), "`tf32` is `allow_tf32` of the pass")
    elif draft.get((*at, "tf32")) is None:
        draft.drop((*at, "tf32"), EMPTY)
    optimizer, trackers, saving = (*at, "optim"), (*at, "report_to"), (*at, "save_steps")
    if isinstance(name := draft.get(optimizer), str) and name in OPTIMIZERS:
        draft.replace(optimizer, OPTIMIZERS[name], f"`{name}` is now `{OPTIMIZERS[name]}`", rule="older-spelling")
    elif isinstance(name, str) and name in OPTIMIZERS_REFUSED:
        draft.refuse(optimizer, f"`{name}` is not to be had here: {OPTIMIZERS_REFUSED[name]}", "adamw_torch_fused")
    if draft.get(saving) is None:
        draft.drop(saving, EMPTY)
    if isinstance(draft.get(trackers), list) and draft.get(trackers) in ([], ["none"]):
        draft.replace(trackers, "none", "no tracker is `none`")
    _devices(draft, at)
    for key, part in (
        ("gradient_checkpointing_kwargs", GradientCheckpointing),
        ("fsdp_config", FsdpConfig),
        ("accelerator_config", AcceleratorConfig),
    ):
        respell(draft, (*at, key), part)
        if draft.get((*at, key)) == {}:
            draft.drop((*at, key), EMPTY)
    wrapped = (*at, "fsdp_config", "transformer_layer_cls_to_wrap")
    if isinstance(draft.get(wrapped), str):
        draft.replace(wrapped, [draft.get(wrapped)], "`transformer_layer_cls_to_wrap` is a list")
    if draft.get((*at, "debug")) in ([], ["underflow_overflow"]):
        draft.replace((*at, "debug"), " ".join(draft.get((*at, "debug"))), "`debug` is a text")


def _devices(draft: Draft, at: KeyPath) -> None:
    """The forms of what spreads the training over several devices."""
    deepspeed, fsdp = (*at, "deepspeed"), (*at, "fsdp")
    if draft.get(deepspeed) is False:
        draft.drop(deepspeed, "it is off, as always here")
    elif draft.get(deepspeed) is True:
        draft.refuse(deepspeed, "`deepspeed`: name the file of its settings, or use `fsdp` instead")
    if draft.get(fsdp) in ("", []):
        draft.drop(fsdp, EMPTY)
    elif isinstance(words := draft.get(fsdp), list) and all(isinstance(word, str) for word in words):
        draft.replace(fsdp, " ".join(words), "the words of `fsdp` are a text")


def _inline_data(draft: Draft, at: KeyPath) -> None:
    """A data config that stands in the pass, up to 0.6: it gets a name."""
    value, configs = draft.get(at), ("data_configs",)
    if not isinstance(value, dict) or not isinstance(value.get("name", ""), str):
        return
    name = value.get("name", str(at[-1]).removesuffix("_config"))
    if not draft.has(configs):
        draft.put(configs, [], "the list of data configs", because=at)
    listed = draft.get(configs)
    if not isinstance(listed, list):
        return
    place = (*configs, len(listed))
    listed.append(value)
    draft.place(place, draft.written(at))
    if value.get("name") != name:
        draft.put((*place, "name"), name, "every data config has a name", because=place)
    draft.replace(at, name, f"the data config has a place of its own, as `{name}`")


def rename_data(draft: Draft, name: str, new: str, message: str) -> None:
    """Writes `new` where a pass names the data config `name`; before the passes are un-nested."""
    for step in draft.keys(PASSES):
        for outer in ((*PASSES, step), (*PASSES, step, "config")):
            for key in ("train_data_config", "eval_data_config"):
                if draft.get((*outer, key)) == name:
                    draft.replace((*outer, key), new, message, rule="older-spelling")


def _only_data(draft: Draft, at: KeyPath) -> None:
    configs = draft.get(("data_configs",))
    if draft.has(at) or not isinstance(configs, list) or len(configs) != 1 or not isinstance(configs[0], dict):
        return
    if isinstance(name := configs[0].get("name"), str):
        draft.put(at, name, "the only data config")


def _training_config(draft: Draft) -> None:
    """A `training_config` beside the passes: settings of the one pass that trains."""
    at: KeyPath = ("training_config",)
    if not isinstance(draft.get(at), dict):
        return
    names = training_passes(draft)
    if len(names) != 1:
        draft.refuse(at, "`training_config`: write it as `training_args` of the pass that it is meant for")
        return
    step = (*PASSES, names[0])
    for key in draft.keys(at):
        new = TRAINING_NAMES.get(key, key)
        draft.move((*at, key), (*step, "training_args", new), f"`{key}` is `{new}` in `training_args` of `{names[0]}`")
    draft.drop(at, "nothing is left in it")
    _training_args(draft, (*step, "training_args"), step)


def translate_dataset_types(draft: Draft) -> None:
    """`dataset_type`, up to 0.6.2: what the loss is on."""
    configs = draft.get(("data_configs",))
    for i, config in enumerate(configs if isinstance(configs, list) else []):
        at = ("data_configs", i, "pre_process_data_config")
        kind, ignored = (*at, "dataset_type"), (*at, "ignore_source_in_labels")
        if draft.get(kind) not in ("corpus", "pair"):
            continue
        completion_only = draft.get(kind) == "pair" and draft.get(ignored) is not False
        for name in training_passes(draft):
            step = (*PASSES, name)
            mine = isinstance(config, dict) and draft.get((*step, "train_data_config")) == config.get("name")
            if mine and not draft.has((*step, "completion_only_loss")):
                reason = f"a data set of type `{draft.get(kind)}` is trained on {'its targets' if completion_only else 'as a whole'}"
                draft.put((*step, "completion_only_loss"), completion_only, reason, because=kind)
        draft.drop(kind, "`completion_only_loss` of the pass says it")
        if isinstance(draft.get(ignored), bool):
            draft.drop(ignored, "`completion_only_loss` of the pass says it")


# -- export ----------------------------------------------------------------------------------------------------------------


def _builder(draft: Draft, at: KeyPath) -> None:
    extra = (*at, "extra_options")
    for key in draft.keys(extra):
        new = BUILDER_NAMES.get(key, key)
        _from_command_line(draft, (*extra, key), new)
        if new in BUILDER_KEYS:
            what = f"`{key}` is an option of the pass itself" + (f", `{new}`" if new != key else "")
            draft.move((*extra, key), (*at, new), what)
    for key, new in BUILDER_NAMES.items():
        if draft.has((*at, key)):
            draft.rename((*at, key), new)
    fused = (*extra, "disable_qkv_fusion")
    if isinstance(off := draft.get(fused), bool):
        draft.replace(fused, not off, "`fuse_qkv` is the opposite of `disable_qkv_fusion`")
        draft.rename(fused, "fuse_qkv")
    respell(draft, extra, BuilderOptions)
    for key in draft.keys(extra):
        if key not in BuilderOptions.model_fields:  # what is nearest may be a key of the pass
            known = (*BuilderOptions.model_fields, *BUILDER_KEYS, *BUILDER_NAMES)
            draft.refuse((*extra, key), f"unknown key `{key}`", nearest(key, known), rule="unknown-key")


def _from_command_line(draft: Draft, at: KeyPath, name: str) -> None:
    """A value as the builder's `--extra_options key=value` has it, where everything is a text, for the option `name`."""
    value = draft.get(at)
    if not isinstance(value, str):
        return
    if name in BUILDER_LISTS:
        draft.replace(at, value.split(BUILDER_LISTS[name]), f"`{at[-1]}` is a list")
    elif value.lower() in ("true", "false"):
        draft.replace(at, value.lower() == "true", f"`{at[-1]}` is {value.lower()}, without quotes")
    elif value.removeprefix("-").isdigit():
        draft.replace(at, int(value), f"`{at[-1]}` is a number")


def _classic_export(draft: Draft) -> None:
    """OnnxConversion, OrtTransformersOptimization, ExtractAdapters, ModelBuilder(metadata_only): one ModelBuilder pass, with the
    adapters beside its model where they were extracted, and merged into it else."""
    kinds = {name: draft.get((*PASSES, name, "type")) for name in draft.keys(PASSES)}
    steps = [n for n, kind in kinds.items() if isinstance(kind, str) and kind in CLASSIC_EXPORT]
    builders = [n for n in kinds if kinds[n] == "ModelBuilder"]
    metadata = [n for n in builders if draft.get((*PASSES, n, "metadata_only")) is True]
    if not steps and not metadata:
        return
    for name in steps:
        draft.lift((*PASSES, name, "config"))
    apart = _extracted(draft, kinds)
    only_extracts = all(kinds[n] == "ExtractAdapters" for n in steps)
    builder = metadata[0] if metadata else builders[0] if builders and only_extracts else steps[0]
    at = (*PASSES, builder)
    chain = " → ".join(str(kinds[n]) for n in kinds if n in steps or n in metadata or n == builder)
    beside = f"with {_listed(apart)} beside it" if apart else "the adapter merged into it"
    message = f"{chain}: the model builder makes the ONNX model in one pass, {beside}"
    if metadata:
        draft.drop((*at, "metadata_only"), message)
    elif builder in steps:
        precision = _classic_precision(draft, steps, kinds)
        draft.replace(at, {"type": "ModelBuilder", "precision": precision}, message)
    if apart:
        draft.put((*at, "adapters"), apart, message, because=at)
    for name in [*steps, *metadata]:
        if name != builder:
            why = f"`{builder}` (ModelBuilder) does its work"
            if kinds[name] == "ExtractAdapters" and not apart:
                why += "; the adapter itself stays in gen-model/adapter"
            draft.drop((*PASSES, name), why)
    if builder not in builders or metadata:
        draft.arrange(PASSES, [*(n for n in draft.keys(PASSES) if n != builder), builder])  # the builder comes last


def _listed(names: list[str]) -> str:
    named = ", ".join(f"`{name}`" for name in names)
    return f"the adapters {named}" if len(names) > 1 else f"the adapter {named}"


def _extracted(draft: Draft, kinds: dict[str, Any]) -> list[str]:
    """The passes whose adapters an ExtractAdapters takes out of the graph, when its options say what is done here; the rest of them
    is refused. None where there is no such pass, or what comes before it is merged or no LoRA."""
    names = list(kinds)
    extract = next((n for n in names if kinds[n] == "ExtractAdapters"), None)
    if extract is None or "MergeAdapterWeights" in kinds.values():
        return []
    apart = [n for n in names[: names.index(extract)] if _adds_low_rank(kinds[n])]
    if not apart:
        return []
    at = (*PASSES, extract)
    for key in draft.keys(at):
        value, usual = draft.get((*at, key)), EXTRACT_OPTIONS.get(key)
        if key == "type":
            continue
        if usual is None:
            draft.refuse((*at, key), f"unknown key `{key}`", nearest(key, list(EXTRACT_OPTIONS)), rule="unknown-key")
        elif usual.values and str(value).lower() not in usual.values:
            draft.refuse((*at, key), f"`{key}`: {str(value).lower()} cannot be had: {usual.why}", usual.values[0])
        else:
            draft.drop((*at, key), usual.why)
    return apart


def _classic_precision(draft: Draft, steps: list[str], kinds: dict[str, Any]) -> str:
    named = [CLASSIC_EXPORT[kinds[n]] for n in steps]
    if "int4" in named:
        return "int4"
    half = any(
        draft.get((*PASSES, n, "float16")) is True or draft.get((*PASSES, n, "torch_dtype")) == "float16" for n in steps
    )
    return "fp16" if half or "fp16" in named else "fp32"


def _merge_before_export(draft: Draft) -> None:
    """Olive's ModelBuilder takes an adapter as it is; here it is merged first, unless it stays beside the ONNX model."""
    kinds = {name: draft.get((*PASSES, name, "type")) for name in draft.keys(PASSES)}
    if "MergeAdapterWeights" in kinds.values():
        return
    names = list(kinds)
    for before, name in pairwise(names):
        beside = draft.has((*PASSES, name, "adapters"))
        if _merges(kinds[before]) and kinds[name] == "ModelBuilder" and not beside:
            free = next(n for n in ("merge", "merge_adapter_weights", "merge_adapter") if n not in kinds)
            draft.put((*PASSES, free), {"type": "MergeAdapterWeights"}, "an adapter is merged before it is exported",
                      because=(*PASSES, name))  # fmt: skip
            place = names.index(name)
            draft.arrange(PASSES, [*names[:place], free, *names[place:]])
            return


def _merges(kind: object) -> bool:
    """Return True for the type of a pass whose adapter can be merged into its base."""
    return isinstance(kind, str) and kind in pass_types() and pass_types()[kind].merges


def _adds_low_rank(kind: object) -> bool:
    """Return True for the type of a pass whose adapter can be an input of an ONNX graph."""
    return isinstance(kind, str) and kind in pass_types() and pass_types()[kind].adds_low_rank


# -- search ----------------------------------------------------------------------------------------------------------------

SAMPLERS = {"sequential": "grid", "exhaustive": "grid"}
_SHORT_KEYS = {
    "lora_r": "r",
    "lora_alpha": "alpha",
    **{short: f"training_args.{name}" for short, name in TRAINING_NAMES.items()},
    **{name: f"training_args.{name}" for name in TrainingArgs.model_fields},
}


def translate_search(draft: Draft) -> None:
    """`search_strategy` and `search_space` in the config: they become the sweep, which has a file of its own."""
    if draft.has(_SWEEP):
        draft.refuse(_SWEEP, "a search is described in sweep.yaml beside this file, not under `sweep`")
    strategy: KeyPath = ("search_strategy",)
    if draft.get(strategy) is True:
        draft.replace(strategy, {}, "a search has settings")
    if not isinstance(draft.get(strategy), dict) and not draft.has(("search_space",)):
        return
    lists = [
        (name, key)
        for name in training_passes(draft)
        for key in ("r", "alpha", "lora_dropout")
        if isinstance(draft.get((*PASSES, name, key)), list) and draft.get((*PASSES, name, key))
    ]
    for name, key in lists:
        at = (*PASSES, name, key)
        choice = {"type": "choice", "values": draft.get(at)}
        draft.put((*_SWEEP, "search_space", f"passes.{name}.{key}"), choice, "alternatives are searched", because=at)
        draft.replace(at, draft.get(at)[0], "a run without search takes the first")
    if not lists and not draft.has(("search_space",)):
        draft.drop(strategy, "nothing is searched: no option has several values")
        return
    if isinstance(draft.get(strategy), dict):
        draft.move(strategy, (*_SWEEP, "search_strategy"), "a search is described in sweep.yaml")
    if draft.has(("search_space",)):
        draft.move(("search_space",), (*_SWEEP, "search_space"), "a search is described in sweep.yaml")
    respell_sweep(draft, _SWEEP)


def translate_sweep(source: Source) -> Draft:
    """A file that holds a search alone: sweep.yaml, or an older one of another name."""
    draft = Draft(source)
    if isinstance(draft.value, dict):
        respell_sweep(draft, ())
    return draft


def respell_sweep(draft: Draft, at: KeyPath) -> None:
    strategy, space = (*at, "search_strategy"), (*at, "search_space")
    draft.lift((*strategy, "search_algorithm_config"))  # up to 0.7; `sampler_config` since
    respell(draft, strategy, SearchStrategy)
    kind = draft.get((*strategy, "type"))
    if isinstance(kind, str) and kind in SAMPLERS:
        draft.replace((*strategy, "type"), SAMPLERS[kind], f"`{kind}` is `{SAMPLERS[kind]}`", rule="older-spelling")
    for key in draft.keys(space):
        here = (*space, key)
        if isinstance(draft.get(here), list):
            draft.replace(here, {"type": "choice", "values": draft.get(here)}, "a list is a choice")
        if key in _SHORT_KEYS:
            draft.rename(here, _SHORT_KEYS[key], f"`{key}` is `{_SHORT_KEYS[key]}` of the pass that trains")
