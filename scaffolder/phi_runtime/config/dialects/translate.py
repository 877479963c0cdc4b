"""Older Olive forms → the canonical form. Each change goes through the Draft, which tells it.

What the generations wrote, key by key, is in spellings.py; here is what takes more than a table. Dates are Olive's releases:
0.7 (2024-10) flattened the form and renamed the data keys, 0.8 (2025-03) renamed those of LoRA, 0.9.3 (2025-09) dropped Azure ML.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from phi_runtime.config.diagnostics import dotted
from phi_runtime.config.dialects.apply import respell, type_name
from phi_runtime.config.dialects.draft import EMPTY, MISSING, Draft
from phi_runtime.config.dialects.keys import DATALOADER_KEYS, HF_CONFIG, OLD_DATA_KEYS, PAIR_FORMATS
from phi_runtime.config.dialects.passes import rename_data, translate_dataset_types, translate_passes, translate_search
from phi_runtime.config.file_formats import FORMATS, unpacked_name
from phi_runtime.config.reading.source import KeyPath, Source
from phi_runtime.config.schema import (
    AzureMLSystem,
    DataConfig,
    Datastore,
    InputModel,
    LoadDataset,
    LoadKwargs,
    LocalSystem,
    PreProcess,
    RegistryModel,
    Workflow,
)

PROVIDER_OF = {"cpu": "CPUExecutionProvider", "gpu": "CUDAExecutionProvider"}
_NO_FUNCTION = "no function of it is named here, so Olive never called one"
# What makes the text of a row, in the order in which Olive takes it, each with what it then passes over.
_TEXT_KEYS = (
    ("chat_template", ("text_formatting_func", "text_template", "text_cols")),
    ("text_formatting_func", ("text_template", "text_cols")),
)
_CPU = {"device": "cpu", "execution_providers": ["CPUExecutionProvider"]}


def translate(source: Source) -> Draft:
    """The workflow of `source` in canonical form, as far as it can be told; what is wrong beyond that is left for the models."""
    draft = Draft(source)
    if not isinstance(draft.value, dict):
        return draft
    respell(draft, (), Workflow)
    if draft.get(("azureml_client",)) is None:
        draft.drop(("azureml_client",), EMPTY)
    old = _input_model(draft)
    _inline_systems(draft)
    _systems(draft)
    _host_and_target(draft)
    _data_list(draft)
    translate_passes(draft, old)
    _data_configs(draft, old)
    translate_dataset_types(draft)
    translate_search(draft)
    return draft


def _input_model(draft: Draft) -> bool:
    """Whether the model is written in the form before 0.7."""
    at: KeyPath = ("input_model",)
    if isinstance(draft.get(at), str):
        draft.replace(at, {"type": "HfModel", "model_path": draft.get(at)}, "a model is an object with a type")
    if not isinstance(draft.get(at), dict):
        return False
    draft.lift((*at, "config"))
    old = _model_type(draft, at)
    hf = (*at, "hf_config")
    if isinstance(draft.get(hf), dict):
        if draft.has((*at, "model_path")) and draft.has((*hf, "model_name")):
            draft.drop((*hf, "model_name"), "`model_path` says where the model is")
        respell(draft, hf, HF_CONFIG)
        draft.lift(hf, "what `hf_config` holds stands beside `type` now")
    respell(draft, at, InputModel)
    _model_path(draft, (*at, "model_path"))
    arguments = (*at, "load_kwargs")
    draft.lift((*arguments, "extra_args"))
    _no_token(draft, arguments)
    respell(draft, arguments, LoadKwargs)
    return old


def _no_token(draft: Draft, at: KeyPath) -> None:
    for key in ("token", "use_auth_token", "hf_token"):
        if isinstance(draft.get((*at, key)), str):
            message = "a token does not belong into a file: put it into .env as HF_TOKEN, and revoke this one"
            draft.refuse((*at, key), message, rule="secret")


def _model_type(draft: Draft, at: KeyPath) -> bool:
    kind = (*at, "type")
    written = draft.get(kind)
    type_name(draft, kind, ("HfModel", "PyTorchModel"))
    if draft.get(kind) != "PyTorchModel" or draft.has((*at, "model_script")) or draft.has((*at, "model_loader")):
        return False
    draft.replace(kind, "HfModel", f"a Hugging Face model is of type `HfModel`, no longer `{written}`")
    return True


def _model_path(draft: Draft, at: KeyPath) -> None:
    path = draft.get(at)
    if isinstance(path, str) and path.startswith("azureml://registries/"):
        parts = path.split("/")
        if len(parts) == 8 and parts[4] == "models" and parts[6] == "versions":
            model = {"type": "azureml_registry_model", "registry_name": parts[3], "name": parts[5], "version": parts[7]}
            draft.replace(at, model, "a model of a registry is an object with a type")
    if not isinstance(path, dict):
        return
    respell(draft, at, RegistryModel)
    type_name(draft, (*at, "type"), ("azureml_registry_model", "folder", "string_name"))
    kind = draft.get((*at, "type"))
    if kind in ("folder", "string_name"):
        key = "path" if kind == "folder" else "name"
        if isinstance(draft.get((*at, key)), str):
            draft.replace(at, draft.get((*at, key)), "a folder or a name is written as it is")


# -- machines ------------------------------------------------------------------------------------------------------------


def _inline_systems(draft: Draft) -> None:
    """Systems that stand at host and target, up to 0.6, and this machine where none is named: in Olive all may be missing."""
    systems = draft.get(("systems",))
    if systems is None or systems == {}:
        draft.drop(("systems",), EMPTY)
    elif systems is not MISSING and not isinstance(systems, dict):
        return
    for key in ("host", "target"):
        if isinstance(draft.get((key,)), dict):
            name = next(n for n in (f"{key}_system", f"{key}_system_2") if not draft.has(("systems", n)))
            system = draft.get((key,))
            draft.put(("systems", name), system, f"the system of `{key}` has a name now", because=(key,))
            draft.replace((key,), name, f"`{key}` is the name of a system")
    if not draft.keys(("systems",)):
        draft.put(("systems",), {"local_system": {"type": "LocalSystem"}}, "no system is named: this machine")


def _systems(draft: Draft) -> None:
    everywhere: KeyPath = ("execution_providers",)
    for name in draft.keys(("systems",)):
        at = ("systems", name)
        if not isinstance(draft.get(at), dict):
            continue
        draft.lift((*at, "config"))
        _no_token(draft, at)
        type_name(draft, (*at, "type"), ("LocalSystem", "AzureML"))
        respell(draft, at, AzureMLSystem if draft.get((*at, "type")) == "AzureML" else LocalSystem)
        if draft.has((*at, "azureml_client")):
            draft.rename((*at, "azureml_client"), "azureml_client_config")
        providers = (*at, "execution_providers")
        _accelerators(draft, at, providers if draft.has(providers) else everywhere)
        if isinstance(draft.get(providers), str | list | None):
            draft.drop(providers, "the execution provider stands in `accelerators`")
    if isinstance(draft.get(everywhere), str | list | None):
        draft.drop(everywhere, "the execution provider stands in the `accelerators` of each system")


def _accelerators(draft: Draft, at: KeyPath, given: KeyPath) -> None:
    here = (*at, "accelerators")
    value, providers = draft.get(here), _listed(draft.get(given))
    if value is None:
        draft.drop(here, EMPTY)
        value = MISSING
    if value is MISSING:
        accelerator = {"device": _device(providers), "execution_providers": providers} if providers else _CPU
        draft.put(here, [dict(accelerator)], f"no accelerator is named: {accelerator['execution_providers'][0]}")
        return
    if isinstance(value, str | dict):
        draft.replace(here, [value], "`accelerators` is a list")
    if not isinstance(draft.get(here), list):
        return
    for i, item in enumerate(draft.get(here)):
        _accelerator(draft, (*here, i), item, given, providers)


def _accelerator(draft: Draft, at: KeyPath, item: Any, given: KeyPath, providers: list[Any] | None) -> None:
    if isinstance(item, str):
        device = item.casefold()
        provider = providers or ([PROVIDER_OF[device]] if device in PROVIDER_OF else None)
        if provider:
            value = {"device": device, "execution_providers": provider}
            draft.replace(at, value, f"an accelerator is an object: {device} with {provider[0]}")
        return
    if not isinstance(item, dict):
        return
    own = (*at, "execution_providers")
    if draft.get(own) is None:
        draft.drop(own, EMPTY)
    if isinstance(draft.get(own), str):
        draft.replace(own, [draft.get(own)], "`execution_providers` is a list")
    type_name(draft, (*at, "device"), tuple(PROVIDER_OF))
    device = draft.get((*at, "device"))
    if not draft.has(own) and (providers or (isinstance(device, str) and device in PROVIDER_OF)):
        draft.put(own, providers or [PROVIDER_OF[device]], "the execution provider of the device", because=at)
    elif draft.has(own) and providers and draft.get(own) != providers:
        message = f"the accelerator `{dotted(draft.written(at))}` has another execution provider"
        draft.refused.append(draft.finding(given, "contradiction", message))
    found = _listed(draft.get(own))
    if not draft.has((*at, "device")) and found:
        draft.put((*at, "device"), _device(found), "the device of the execution provider", because=at)


def _listed(value: Any) -> list[Any] | None:
    if isinstance(value, str):
        return [value]
    return value if isinstance(value, list) and value else None


def _device(providers: list[Any]) -> str:
    return "cpu" if providers[0] == "CPUExecutionProvider" else "gpu"


def _host_and_target(draft: Draft) -> None:
    names = draft.keys(("systems",))
    given = {key: draft.get((key,)) for key in ("host", "target") if draft.get((key,)) not in (MISSING, None)}
    for key in ("host", "target"):
        if draft.get((key,)) is None:
            draft.drop((key,), EMPTY)
        if key not in given and (given or len(names) == 1):
            name = next(iter(given.values()), names[0] if names else "")
            draft.put((key,), name, f"`{key}` is not named: `{name}`")


# -- data ------------------------------------------------------------------------------------------------------------------


def _data_list(draft: Draft) -> None:
    """`data_configs` as an object, up to 0.5: its keys were names, of any characters up to 0.4."""
    at: KeyPath = ("data_configs",)
    named = draft.get(at)
    if not isinstance(named, dict):
        return
    written = draft.written(at)
    draft.replace(at, list(named.values()), "`data_configs` is a list")
    for i, key in enumerate(named):
        here = (*at, i, "name")
        draft.place((*at, i), (*written, key))
        if not isinstance(draft.get((*at, i)), dict):
            continue
        if not draft.has(here):
            draft.put(here, key, "the name stands in the data config", because=(*at, i))
        if isinstance(name := draft.get(here), str) and (plain := re.sub(r"[^A-Za-z0-9_]", "_", name)) != name:
            message = f"a data config is named with letters, digits and underscores: `{name}` is now `{plain}`"
            draft.replace(here, plain, message, rule="older-spelling")
            rename_data(draft, name, plain, message)


def _data_configs(draft: Draft, old_model: bool) -> None:
    at: KeyPath = ("data_configs",)
    for i, item in enumerate(draft.get(at) if isinstance(draft.get(at), list) else []):
        if isinstance(item, dict):
            _data_config(draft, (*at, i), old_model)


def _data_config(draft: Draft, at: KeyPath, old_model: bool) -> None:
    type_name(draft, (*at, "type"), ("HuggingfaceContainer",))
    _components(draft, at)
    respell(draft, at, DataConfig)
    load, process = (*at, "load_dataset_config"), (*at, "pre_process_data_config")
    _load_dataset(draft, load)
    if isinstance(draft.get(process), dict):
        _pre_process(draft, process, old_model)
    _user_script(draft, at, process)


def _user_script(draft: Draft, at: KeyPath, process: KeyPath) -> None:
    """A script is for the function that makes the text of a row; where none is named, Olive never called one."""
    function = draft.get((*process, "text_formatting_func"))
    for key in ("user_script", "script_dir"):
        if isinstance(draft.get((*at, key)), str | None):
            if isinstance(function, str) and draft.get((*process, key)) in (MISSING, None):
                draft.move((*at, key), (*process, key), f"`{key}` belongs to `pre_process_data_config`")
            else:
                draft.drop((*at, key), _NO_FUNCTION)
        if isinstance(draft.get((*process, key)), str | None) and function is MISSING:
            draft.drop((*process, key), _NO_FUNCTION)


def _components(draft: Draft, at: KeyPath) -> None:
    """`params_config` and `components`, up to 0.5."""
    params = (*at, "params_config")
    if isinstance(draft.get(params), dict):
        parts = (*params, "component_kwargs")
        for part in draft.keys(parts):
            draft.move((*parts, part), (*at, f"{part}_config"), f"`{part}` is now `{part}_config`")
        if isinstance(draft.get(parts), dict):
            draft.drop(parts, "nothing is left in it")
        for key in ("model_name", "task"):
            if draft.has((*params, key)):
                draft.drop((*params, key), "it is that of `input_model`")
        for key in draft.keys(params):
            if key in DATALOADER_KEYS:
                draft.drop((*params, key), "the batch sizes stand in `training_args`")
                continue
            pre = key in PreProcess.model_fields or key in OLD_DATA_KEYS
            part = "pre_process_data_config" if pre else "load_dataset_config"
            draft.move((*params, key), (*at, part, key), f"`{key}` belongs to `{part}`")
        draft.drop(params, "nothing is left in it")
    parts = (*at, "components")
    for part in draft.keys(parts):
        if draft.has((*parts, part, "name")):
            draft.drop((*parts, part, "name"), "`type` says what a component does")
        if not draft.has((*at, f"{part}_config")):
            draft.move((*parts, part), (*at, f"{part}_config"), f"`{part}` is now `{part}_config`")
        for key in draft.keys((*parts, part)):
            new = (*at, f"{part}_config", key)
            draft.move((*parts, part, key), new, f"`{part}` is now `{part}_config`")
    if draft.has(parts) and all(draft.get((*parts, part)) in (None, {}) for part in draft.keys(parts)):
        draft.drop(parts, "nothing is left in it")


def _component_type(draft: Draft, at: KeyPath, usual: str) -> None:
    """`type` of a data component: Olive's own says nothing, another is a function of the user's script."""
    kind = draft.get((*at, "type"))
    if kind is None or kind == usual:
        draft.drop((*at, "type"), "there is one way to do this")
    elif isinstance(kind, str):
        message = (
            f"`{kind}` is a function of a user_script that makes a data set: write its rows to a file, and name that"
        )
        draft.refuse((*at, "type"), message)


def _load_dataset(draft: Draft, at: KeyPath) -> None:
    if not isinstance(draft.get(at), dict):
        return
    draft.lift((*at, "params"))
    _no_token(draft, at)
    respell(draft, at, LoadDataset)
    _component_type(draft, at, "huggingface_dataset")
    for key in ("data_dir", "subset", "revision"):
        if draft.get((*at, key)) is None:
            draft.drop((*at, key), EMPTY)
    files = (*at, "data_files")
    if isinstance(draft.get(files), dict) and draft.has((*files, "type")):
        respell(draft, files, Datastore)
        type_name(draft, (*files, "type"), ("azureml_datastore", "file"))
        if draft.get((*files, "type")) == "file" and isinstance(draft.get((*files, "path")), str):
            draft.replace(files, draft.get((*files, "path")), "a file is written as it is")
    if not draft.has((*at, "data_name")) and (format_ := _format(draft.get(files))):
        draft.put((*at, "data_name"), format_, "the format, by the ending of the file", because=files)
    if not draft.has((*at, "split")) and (draft.has(files) or draft.has((*at, "data_dir"))):
        message = "the split of a file; Olive takes `validation` where none is named, which a file has not"
        draft.put((*at, "split"), "train", message)
    elif not draft.has((*at, "split")) and isinstance(draft.get((*at, "data_name")), str):
        draft.put((*at, "split"), "validation", "Olive takes `validation` where no split is named")


def _format(files: Any) -> str | None:
    first = next(iter(files.values()), None) if isinstance(files, dict) and "type" not in files else files
    first = first[0] if isinstance(first, list) and first else first
    return FORMATS.get(unpacked_name(Path(first)).suffix.lower()) if isinstance(first, str) else None


def _pre_process(draft: Draft, at: KeyPath, old_model: bool) -> None:
    draft.lift((*at, "params"))
    old = old_model or any(draft.has((*at, key)) for key in OLD_DATA_KEYS)
    joiner = (*at, "joiner")
    if draft.get(joiner) is None:
        draft.replace(joiner, "", "nothing stands between rows")
    respell(draft, at, PreProcess)
    _component_type(draft, at, "text_generation_huggingface_pre_process")
    if draft.get((*at, "dataset_type")) == "pair":
        _pair(draft, at)
    columns = (*at, "text_cols")
    if isinstance(draft.get(columns), str):
        draft.replace(columns, [draft.get(columns)], "`text_cols` is a list")
    if draft.get(columns) is None:
        draft.drop(columns, EMPTY)
    names = draft.get(columns)
    named = isinstance(names, list) and names and all(isinstance(name, str) for name in names)
    if named and isinstance(draft.get((*at, "text_template")), str):
        draft.drop(columns, "`text_template` names the columns")
    for first, others in _TEXT_KEYS:
        if draft.has((*at, first)) and not draft.get((*at, first)):
            draft.drop((*at, first), EMPTY)
        if draft.has((*at, first)):
            for other in others:
                if draft.has((*at, other)):
                    draft.drop((*at, other), f"`{first}` makes the text")
            break
    if not old:
        return
    if not draft.has((*at, "strategy")):
        draft.put((*at, "strategy"), "line-by-line", "the default when this form was current; today's is `join`")
    if str(draft.get((*at, "strategy"))).startswith("join") and not draft.has(joiner):
        draft.put(joiner, "", "nothing stood between rows when this form was current")


def _pair(draft: Draft, at: KeyPath) -> None:
    """The `pair` data sets, up to 0.6.2: a source and a target, the loss on the target."""
    kind = (*at, "pair_format")
    name = draft.get(kind) if draft.has(kind) else "default"
    if name == "custom":
        source, target = (_side(draft, at, side) for side in ("input", "output"))
        template = f"{source}{target}" if source and target else None
    else:
        template = PAIR_FORMATS.get(name) if isinstance(name, str) else None
    if template is None:
        draft.refuse((*at, "dataset_type"), f"rows of the form `{name}` are not read: write `text_template` instead")
    elif not draft.has((*at, "text_template")):
        draft.put((*at, "text_template"), template, f"the text of a `{name}` pair", because=(*at, "dataset_type"))
    for key in ("pair_format", "input_col", "input_template", "output_col", "output_template"):
        if draft.has((*at, key)):
            draft.drop((*at, key), "`text_template` says it")
    source_len, target_len = draft.get((*at, "max_seq_len")), draft.get((*at, "target_max_len"))
    if type(source_len) is int and type(target_len) is int and min(source_len, target_len) >= 8:
        draft.replace(
            (*at, "max_seq_len"), source_len + target_len, "source and target together", rule="older-spelling"
        )
        draft.drop((*at, "target_max_len"), "`max_seq_len` is that of source and target together")


def _side(draft: Draft, at: KeyPath, side: str) -> str | None:
    template, column = draft.get((*at, f"{side}_template")), draft.get((*at, f"{side}_col"))
    if isinstance(template, str):
        return template
    return f"{{{column}}}" if isinstance(column, str) else None
