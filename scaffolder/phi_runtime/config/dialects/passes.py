"""Translate the passes of older Olive forms, and the training arguments in them."""

from __future__ import annotations

import re

from phi_runtime.config.diagnostics import short
from phi_runtime.config.dialects.draft import EMPTY, MISSING, NOTHING_LEFT, OFF, Draft
from phi_runtime.config.dialects.export import translate_builder, translate_export
from phi_runtime.config.dialects.key_table import fix_case
from phi_runtime.config.dialects.keys import PASSES, translate_keys
from phi_runtime.config.dialects.pass_names import CLASSIC_EXPORT, PASS_NAMES, PASS_SETTINGS, SKIPPED_PASSES
from phi_runtime.config.dialects.pass_types import training_passes
from phi_runtime.config.dialects.quantizers import QUANTIZER_PASSES
from phi_runtime.config.dialects.training_keys import OFTEN_IN_THE_PASS, OPTIMIZERS, OPTIMIZERS_REFUSED, TRAINING_NAMES
from phi_runtime.config.reading.source import KeyPath
from phi_runtime.config.schema import (
    AcceleratorConfig,
    FinetunePass,
    FsdpConfig,
    GradientCheckpointing,
    TrainingArgs,
)
from phi_runtime.config.schema.registry import known_names, load, pass_type, pass_types
from phi_runtime.core.errors import ConfigError
from phi_runtime.core.suggestions import nearest


def translate_passes(draft: Draft, before_0_7: bool) -> None:
    """Translate the passes; `before_0_7`: the config has the form of Olive before 0.7, with its defaults."""
    if not isinstance(draft.get(PASSES), dict):
        return
    _flows(draft)
    for name in draft.keys(PASSES):
        at = (*PASSES, name)
        if isinstance(draft.get(at), list) and len(draft.get(at)) == 1:
            draft.replace(at, draft.get(at)[0], f"`{name}` is now the pass itself")
            draft.set_source_path(at, (*draft.source_path(at), 0))
        elif isinstance(draft.get(at), list):
            _alternatives(draft, at)
        if not isinstance(draft.get(at), dict):
            continue
        kind = _pass_type(draft, (*at, "type"))
        if kind in SKIPPED_PASSES:
            draft.drop(at, SKIPPED_PASSES[kind])
        if (cls := pass_type(kind)) is None:
            continue
        translate_keys(draft, at, cls)
        _own_host(draft, at)
        if issubclass(cls, FinetunePass):
            _finetune(draft, at, before_0_7)
        if kind == "ModelBuilder":
            translate_builder(draft, at)
    _training_config(draft)
    translate_export(draft)


def _alternatives(draft: Draft, at: KeyPath) -> None:
    """Refuse several alternatives for one pass; the first one remains, so that the passes after it are checked."""
    passes = draft.get(at)
    if not passes:
        return
    message = f"`{at[-1]}` lists {len(passes)} alternative passes, and a search over them is not supported"
    fix = "keep one pass, and list the values of its options in `search_space` of sweep.yaml"
    draft.refused.append(draft.finding(at, "not-supported", message, fix=fix))
    draft.replace(at, passes[0], f"only the first pass of `{at[-1]}` is checked")
    draft.set_source_path(at, (*draft.source_path(at), 0))


def _pass_type(draft: Draft, at: KeyPath) -> str:
    """Return the type at `at` as it is called today, loaded from an installed package if necessary; "" if it is no string.

    Raises:
        ConfigError: The package that offers the type cannot be loaded.
    """
    if pass_type(kind := draft.get(at)):
        return str(kind)
    translated = (*CLASSIC_EXPORT, *SKIPPED_PASSES, *QUANTIZER_PASSES)
    fix_case(draft, at, (*pass_types(), *translated, *PASS_NAMES))
    if isinstance(old := draft.get(at), str) and old in PASS_NAMES:
        draft.replace(at, PASS_NAMES[old], f"`{old}` renamed to `{PASS_NAMES[old]}`", rule="renamed")
        for key, value in PASS_SETTINGS.get(old, {}).items():
            draft.set_default((*at[:-1], key), value, f"`{old}` does this", cause=at)
    kind = draft.get(at)
    if not isinstance(kind, str) or pass_type(kind) or kind in translated:
        return kind if isinstance(kind, str) else ""
    fix_case(draft, at, known_names())
    kind = str(draft.get(at))
    try:
        load(kind)
    except ConfigError as e:
        raise ConfigError(e.what, where=draft.source.locate(draft.source_path(at)), fix=e.fix) from e
    return kind


def _flows(draft: Draft) -> None:
    """Apply `pass_flows` (up to 0.7): lists of pass names, each an order to run them in."""
    at: KeyPath = ("pass_flows",)
    flows = draft.get(at)
    if flows in (None, []):
        draft.drop(at, EMPTY)
    if not isinstance(flows, list) or not flows:
        return
    passes = draft.get(PASSES)
    for i, flow in enumerate(flows):
        is_list = isinstance(flow, list)
        unknown = [n for n in flow if not isinstance(n, str) or n not in passes] if is_list else [flow]
        if unknown:
            draft.refuse(
                at, f"`pass_flows` {i} names no pass: {short(unknown[0])}", nearest(str(unknown[0]), list(passes))
            )
            return
    if len(flows) > 1:
        message = (
            f"{len(flows)} `pass_flows` are {len(flows)} workflows: `phi-scaffold migrate` writes one config for each"
        )
        draft.refused.append(draft.finding(at, "not-supported", message))
    order = flows[0]
    for name in [n for n in passes if n not in order]:
        draft.drop((*PASSES, name), "`pass_flows` does not run it")
    draft.reorder(PASSES, list(dict.fromkeys(order)))
    draft.drop(at, "passes run in the order of `passes`")


def _own_host(draft: Draft, at: KeyPath) -> None:
    host = (*at, "host")
    if not draft.has(host):
        return
    name = draft.get(host)
    if name in (None, draft.get(("host",))):
        draft.drop(host, "it is the `host` of the config")
    elif not isinstance(name, str) or draft.get(("systems", name, "type")) != "AzureML":
        message = (
            "only an Azure ML system can be the host of one pass: remove this key, to run it on `host` of the config"
        )
        draft.refuse(host, message)


# -- training --------------------------------------------------------------------------------------------------------------


def _finetune(draft: Draft, at: KeyPath, before_0_7: bool) -> None:
    arguments = (*at, "training_args")
    for key in draft.keys(at):
        if key in OFTEN_IN_THE_PASS:
            draft.move((*at, key), (*arguments, key), f"`{key}` moved to `training_args`")
    _training_args(draft, arguments, at)
    if draft.get((*at, "bias")) == "none":
        draft.drop((*at, "bias"), "biases are never trained")
    size, eval_data = (*at, "eval_dataset_size"), draft.get((*at, "eval_data_config"))
    if before_0_7 and draft.has(size) and eval_data not in (MISSING, None):
        draft.drop(size, "Olive used `eval_data_config` if both were set")
    for key in ("target_modules", "modules_to_save", "feedforward_modules", "layers_pattern"):
        if isinstance(text := draft.get((*at, key)), str) and re.fullmatch(r"[\w.\s,-]+", text):  # else an expression
            draft.replace((*at, key), re.split(r"[\s,]+", text.strip(" ,")), f"`{key}` is now a list")
    _start(draft, at)
    for key in ("train_data_config", "eval_data_config"):
        _inline_data(draft, (*at, key))
    _only_data(draft, (*at, "train_data_config"))
    cls = pass_type(draft.get((*at, "type")))
    has_dropout = cls is not None and "lora_dropout" in cls.model_fields
    if before_0_7 and has_dropout and not draft.has((*at, "lora_dropout")):
        draft.set_default((*at, "lora_dropout"), 0.0, "default of this form; it is 0.05 today")


def _start(draft: Draft, at: KeyPath) -> None:
    """Translate the first weights of an adapter, and the iterations of LoftQ."""
    start, iterations = (*at, "init_lora_weights"), (*at, "loftq_iter")
    if isinstance(name := draft.get(start), str) and name.lower().startswith(("eva", "corda", "lora_ga")):
        draft.refuse(start, f"`{name}` reads training rows before training, which is not supported", "pissa")
    if draft.get(iterations) in (1, None):
        draft.drop(iterations, "`loftq` has one iteration")
    elif draft.has(iterations):
        draft.refuse(iterations, "several iterations of LoftQ change the base, which is not supported", "1")


def _training_args(draft: Draft, at: KeyPath, step: KeyPath) -> None:
    checkpoint = (*at, "resume_from_checkpoint")
    if isinstance(draft.get(checkpoint), str):  # Olive starts from this folder
        draft.drop(checkpoint, "training starts from the base model, or resumes its own run", changes_result=True)
    translate_keys(draft, at, TrainingArgs)
    for key, dtype in (("bf16", "bfloat16"), ("fp16", "float16")):
        if draft.get((*at, key)) is True and not draft.has((*step, "torch_dtype")):
            draft.set_default((*step, "torch_dtype"), dtype, f"`{key}` of `training_args`", cause=(*at, key))
        if isinstance(draft.get((*at, key)), bool):
            draft.drop((*at, key), "`torch_dtype` of the pass defines it")
    if isinstance(draft.get((*at, "tf32")), bool):
        draft.move((*at, "tf32"), (*step, "allow_tf32"), "`tf32` moved to `allow_tf32` of the pass")
    elif draft.get((*at, "tf32")) is None:
        draft.drop((*at, "tf32"), EMPTY)
    optimizer, trackers, saving = (*at, "optim"), (*at, "report_to"), (*at, "save_steps")
    if isinstance(name := draft.get(optimizer), str) and name in OPTIMIZERS:
        draft.replace(optimizer, OPTIMIZERS[name], f"`{name}` renamed to `{OPTIMIZERS[name]}`", rule="renamed")
    elif isinstance(name, str) and name in OPTIMIZERS_REFUSED:
        draft.refuse(optimizer, f"optimizer `{name}` is not supported: {OPTIMIZERS_REFUSED[name]}", "adamw_torch_fused")
    if draft.get(saving) is None:
        draft.drop(saving, EMPTY)
    if isinstance(draft.get(trackers), list) and draft.get(trackers) in ([], ["none"]):
        draft.replace(trackers, "none", "an empty `report_to` is now `none`")
    _devices(draft, at)
    for key, part in (
        ("gradient_checkpointing_kwargs", GradientCheckpointing),
        ("fsdp_config", FsdpConfig),
        ("accelerator_config", AcceleratorConfig),
    ):
        translate_keys(draft, (*at, key), part)
        if draft.get((*at, key)) == {}:
            draft.drop((*at, key), EMPTY)
    wrapped = (*at, "fsdp_config", "transformer_layer_cls_to_wrap")
    if isinstance(draft.get(wrapped), str):
        draft.replace(wrapped, [draft.get(wrapped)], "`transformer_layer_cls_to_wrap` is now a list")
    if draft.get((*at, "debug")) in ([], ["underflow_overflow"]):
        draft.replace((*at, "debug"), " ".join(draft.get((*at, "debug"))), "`debug` is now a string")


def _devices(draft: Draft, at: KeyPath) -> None:
    """Translate the settings that spread training over devices."""
    deepspeed, fsdp = (*at, "deepspeed"), (*at, "fsdp")
    if draft.get(deepspeed) is False:
        draft.drop(deepspeed, OFF)
    elif draft.get(deepspeed) is True:
        draft.refuse(deepspeed, "`deepspeed: true` is not supported: set it to a DeepSpeed config file, or use `fsdp`")
    if draft.get(fsdp) in ("", []):
        draft.drop(fsdp, EMPTY)
    elif isinstance(words := draft.get(fsdp), list) and all(isinstance(word, str) for word in words):
        draft.replace(fsdp, " ".join(words), "`fsdp` is now a string")


def _inline_data(draft: Draft, at: KeyPath) -> None:
    """Move a data config out of the pass (up to 0.6) and name it."""
    value, configs = draft.get(at), ("data_configs",)
    if not isinstance(value, dict) or not isinstance(value.get("name", ""), str):
        return
    name = value.get("name", str(at[-1]).removesuffix("_config"))
    if not draft.has(configs):
        draft.set_default(configs, [], "it holds the data config of the pass", cause=at)
    listed = draft.get(configs)
    if not isinstance(listed, list):
        return
    place = (*configs, len(listed))
    listed.append(value)
    draft.set_source_path(place, draft.source_path(at))
    if value.get("name") != name:
        draft.set_default((*place, "name"), name, "every data config has a name", cause=place)
    draft.replace(at, name, f"the data config moved to `data_configs`, as `{name}`")


def rename_data(draft: Draft, name: str, new: str, message: str) -> None:
    """Rename the data config `name` wherever a pass refers to it, before the passes are unnested."""
    for step in draft.keys(PASSES):
        for outer in ((*PASSES, step), (*PASSES, step, "config")):
            for key in [key for key in draft.keys(outer) if key.endswith("data_config")]:
                if draft.get((*outer, key)) == name:
                    draft.replace((*outer, key), new, message, rule="renamed")


def _only_data(draft: Draft, at: KeyPath) -> None:
    names = [draft.get(("data_configs", i, "name")) for i in range(len(draft.items(("data_configs",))))]
    if not draft.has(at) and len(names) == 1 and isinstance(names[0], str):
        draft.set_default(at, names[0], "the only data config")


def _training_config(draft: Draft) -> None:
    """Move `training_config`, next to the passes, into the one pass that trains."""
    at: KeyPath = ("training_config",)
    if not isinstance(draft.get(at), dict):
        return
    names = training_passes(draft)
    if len(names) != 1:
        draft.refuse(
            at, "`training_config` is not supported with several training passes: move it to `training_args` of one"
        )
        return
    step = (*PASSES, names[0])
    for key in draft.keys(at):
        new = TRAINING_NAMES.get(key, key)
        draft.move((*at, key), (*step, "training_args", new), f"`{key}` moved to `training_args.{new}` of `{names[0]}`")
    draft.drop(at, NOTHING_LEFT)
    _training_args(draft, (*step, "training_args"), step)


def translate_dataset_types(draft: Draft) -> None:
    """Translate `dataset_type` (up to 0.6.2), which defines the tokens of the loss."""
    for i, config in enumerate(draft.items(("data_configs",))):
        at = ("data_configs", i, "pre_process_data_config")
        kind, ignored = (*at, "dataset_type"), (*at, "ignore_source_in_labels")
        if draft.get(kind) not in ("corpus", "pair"):
            continue
        completion_only = draft.get(kind) == "pair" and draft.get(ignored) is not False
        for name in training_passes(draft):
            step = (*PASSES, name)
            is_source = isinstance(config, dict) and draft.get((*step, "train_data_config")) == config.get("name")
            if is_source and not draft.has((*step, "completion_only_loss")):
                reason = (
                    f"dataset type `{draft.get(kind)}` trains on {'its targets' if completion_only else 'all tokens'}"
                )
                draft.set_default((*step, "completion_only_loss"), completion_only, reason, cause=kind)
        draft.drop(kind, "`completion_only_loss` of the pass defines it")
        if isinstance(draft.get(ignored), bool):
            draft.drop(ignored, "`completion_only_loss` of the pass defines it")
