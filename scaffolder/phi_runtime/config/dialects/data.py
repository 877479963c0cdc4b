"""Translate the data configs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from phi_runtime.config.dialects.draft import EMPTY, MISSING, NOTHING_LEFT, Draft
from phi_runtime.config.dialects.key_table import fix_case
from phi_runtime.config.dialects.keys import (
    DATALOADER_KEYS,
    FILTER_FUNCTIONS,
    FILTERS,
    OLD_DATA_KEYS,
    PAIR_FORMATS,
    PASSES,
    PRE_PROCESS_TYPES,
    translate_keys,
)
from phi_runtime.config.dialects.passes import rename_data
from phi_runtime.config.file_formats import known_format
from phi_runtime.config.reading.source import KeyPath
from phi_runtime.config.schema import DataConfig, Datastore, LoadDataset, PreProcess

_NO_FUNCTION = "without `text_formatting_func` Olive never calls a function"
# Sources of a row's text in the order in which Olive uses them, each with those that it overrides.
_TEXT_KEYS = (
    ("chat_template", ("text_formatting_func", "text_template", "text_cols")),
    ("text_formatting_func", ("text_template", "text_cols")),
)


def list_data_configs(draft: Draft) -> None:
    """Turn `data_configs` from an object by name (up to 0.5) into a list, and correct names (any characters up to 0.4)."""
    at: KeyPath = ("data_configs",)
    named = draft.get(at)
    if isinstance(named, dict):
        source_path = draft.source_path(at)
        draft.replace(at, list(named.values()), "`data_configs` is now a list")
        for i, key in enumerate(named):
            draft.set_source_path((*at, i), (*source_path, key))
            _name_by_key(draft, (*at, i), key)
    for i, config in enumerate(draft.items(at)):
        name = config.get("name") if isinstance(config, dict) else None
        if isinstance(name, str) and (plain := re.sub(r"[^A-Za-z0-9_]", "_", name)) != name:
            message = f"data config `{name}` renamed to `{plain}`: only letters, digits and underscores are allowed"
            draft.replace((*at, i, "name"), plain, message, rule="renamed")
            rename_data(draft, name, plain, message)


def _name_by_key(draft: Draft, at: KeyPath, key: str) -> None:
    """Name the data config at `at` by its key, which is what references use."""
    name_path = (*at, "name")
    if not isinstance(draft.get(at), dict) or draft.get(name_path) == key:
        return
    if draft.has(name_path):
        draft.drop(name_path, f"references use the key `{key}`")
    draft.set_default(name_path, key, "the name is now a key of the data config", cause=at)
    draft.reorder(at, ["name", *(k for k in draft.keys(at) if k != "name")])


def translate_data(draft: Draft, before_0_7: bool) -> None:
    """Translate the listed data configs; `before_0_7`: the model has the form of Olive before 0.7."""
    at: KeyPath = ("data_configs",)
    used = used_data_configs(draft)
    for i, item in reversed(list(enumerate(draft.items(at)))):
        if used is None or not isinstance(item, dict) or item.get("name") in used:
            continue
        alone = Draft(draft.source, {"data_configs": [item]})
        _data_config(alone, (*at, 0), before_0_7)
        if not alone.is_valid((*at, 0), DataConfig):
            draft.drop((*at, i), "no pass that runs uses it")
    for i, item in enumerate(draft.items(at)):
        if isinstance(item, dict):
            _data_config(draft, (*at, i), before_0_7)


def used_data_configs(draft: Draft) -> list[str] | None:
    """Return the names of the data configs that passes refer to; None if one is misspelled, which may mean any of them."""

    def names(value: Any) -> Iterator[str]:
        for key, inner in value.items() if isinstance(value, dict) else ():
            if str(key).endswith("data_config") and isinstance(inner, str):
                yield inner
            yield from names(inner)

    used = list(names(draft.get(PASSES)))  # no set: the name of a config may be any value
    known = [item.get("name") for item in draft.items(("data_configs",)) if isinstance(item, dict)]
    return used if all(name in known for name in used) else None


def _data_config(draft: Draft, at: KeyPath, before_0_7: bool) -> None:
    kind = (*at, "type")
    fix_case(draft, kind, ("HuggingfaceContainer", "DataContainer"))
    if draft.get(kind) == "DataContainer":
        draft.replace(kind, "HuggingfaceContainer", "`DataContainer` renamed to `HuggingfaceContainer`", rule="renamed")
    elif draft.get(kind) is None:
        draft.replace(kind, "HuggingfaceContainer", "`type` is now `HuggingfaceContainer`, the only container type")
    elif not draft.has(kind):
        draft.set_default(kind, "HuggingfaceContainer", "it is the only container type")
    load, process = (*at, "load_dataset_config"), (*at, "pre_process_data_config")
    for inner in ((*load, "pre_process_data_config"), (*load, "component_kwargs", "pre_process_data")):
        if draft.has(inner):
            draft.move(inner, process, f"`{inner[-1]}` moved out of `load_dataset_config`")
    if draft.get((*load, "component_kwargs")) == {}:
        draft.drop((*load, "component_kwargs"), NOTHING_LEFT)
    _components(draft, at)
    translate_keys(draft, at, DataConfig)
    by_columns = _load_dataset(draft, load)
    _samples(draft, load, (*process, "max_samples"))
    if isinstance(draft.get(process), dict):
        _pre_process(draft, process, before_0_7)
    _user_script(draft, at, process, "`col_filters` selects the rows" if by_columns else _NO_FUNCTION)


def _samples(draft: Draft, load: KeyPath, new: KeyPath) -> None:
    """Move a number of samples out of the dataset to the pre-processing, which has it in Olive."""
    for key in ("max_samples", "size"):
        if draft.has((*load, key)):
            draft.move((*load, key), new, f"`{key}` moved to `max_samples` of `pre_process_data_config`")


def _user_script(draft: Draft, at: KeyPath, process: KeyPath, unused: str) -> None:
    """Move the user script to the function that it is for; without one nothing calls it, for the reason `unused`."""
    function = draft.get((*process, "text_formatting_func"))
    for key in ("user_script", "script_dir"):
        if isinstance(draft.get((*at, key)), str | None):
            if isinstance(function, str) and draft.get((*process, key)) in (MISSING, None):
                draft.move((*at, key), (*process, key), f"`{key}` moved to `pre_process_data_config`")
            else:
                draft.drop((*at, key), unused)
        if isinstance(draft.get((*process, key)), str | None) and function is MISSING:
            draft.drop((*process, key), unused)


def _components(draft: Draft, at: KeyPath) -> None:
    """Translate `params_config` and `components` (up to 0.5)."""
    params = (*at, "params_config")
    if isinstance(draft.get(params), dict):
        parts = (*params, "component_kwargs")
        for part in draft.keys(parts):
            draft.move((*parts, part), (*at, f"{part}_config"), f"`{part}` renamed to `{part}_config`")
        if isinstance(draft.get(parts), dict):
            draft.drop(parts, NOTHING_LEFT)
        for key in ("model_name", "task"):
            if draft.has((*params, key)):
                draft.drop((*params, key), "`input_model` defines it")
        for key in draft.keys(params):
            if key in DATALOADER_KEYS:
                draft.drop((*params, key), "batch sizes are set in `training_args`")
                continue
            pre = key in PreProcess.model_fields or key in OLD_DATA_KEYS
            part = "pre_process_data_config" if pre else "load_dataset_config"
            draft.move((*params, key), (*at, part, key), f"`{key}` moved to `{part}`")
        draft.drop(params, NOTHING_LEFT)
    parts = (*at, "components")
    for part in draft.keys(parts):
        if draft.has((*parts, part, "name")):
            draft.drop((*parts, part, "name"), "the component is known by its key")
        if not draft.has((*at, f"{part}_config")):
            draft.move((*parts, part), (*at, f"{part}_config"), f"`{part}` renamed to `{part}_config`")
        for key in draft.keys((*parts, part)):
            new = (*at, f"{part}_config", key)
            draft.move((*parts, part, key), new, f"`{part}` renamed to `{part}_config`")
    if draft.has(parts) and all(draft.get((*parts, part)) in (None, {}) for part in draft.keys(parts)):
        draft.drop(parts, NOTHING_LEFT)


def _component_type(draft: Draft, at: KeyPath, *defaults: str) -> None:
    """Drop the default `type` of a data component; any other is a function of a user script."""
    fix_case(draft, (*at, "type"), defaults)
    kind = draft.get((*at, "type"))
    if kind is None or kind in defaults:
        draft.drop((*at, "type"), "it is the only supported type")
    elif isinstance(kind, str):
        message = f"dataset function `{kind}` of a user_script is not supported: write its rows to a file, and set `data_files`"
        draft.refuse((*at, "type"), message)


def _load_dataset(draft: Draft, at: KeyPath) -> bool:
    """Translate the rows to read; return True if they come from a known function of a user script."""
    if not isinstance(draft.get(at), dict):
        return False
    translate_keys(draft, at, LoadDataset)
    kind = (*at, "type")
    fix_case(draft, kind, FILTER_FUNCTIONS)
    filters = FILTERS if draft.get(kind) in FILTER_FUNCTIONS else {}
    for key, column in filters.items():
        if draft.has((*at, key)):
            draft.move((*at, key), (*at, "col_filters", column), f"`{key}` is the value of the column `{column}`")
    if filters:
        draft.drop(kind, "`col_filters` selects its rows")
    _component_type(draft, at, "huggingface_dataset")
    for key in ("data_dir", "subset", "revision"):
        if draft.get((*at, key)) is None:
            draft.drop((*at, key), EMPTY)
    files = (*at, "data_files")
    if isinstance(draft.get(files), dict) and draft.has((*files, "type")):
        translate_keys(draft, files, Datastore)
        fix_case(draft, (*files, "type"), ("azureml_datastore", "file"))
        if draft.get((*files, "type")) == "file" and isinstance(draft.get((*files, "path")), str):
            draft.replace(files, draft.get((*files, "path")), "`data_files` is now the path itself")
    if not draft.has((*at, "data_name")) and (format_ := _format(draft.get(files))):
        draft.set_default((*at, "data_name"), format_, "file format by suffix", cause=files)
    if not draft.has((*at, "split")) and (draft.has(files) or draft.has((*at, "data_dir"))):
        message = "a file has the split `train`; Olive's default `validation` does not exist"
        draft.set_default((*at, "split"), "train", message)
    elif not draft.has((*at, "split")) and isinstance(draft.get((*at, "data_name")), str):
        draft.set_default((*at, "split"), "validation", "Olive's default split")
    return bool(filters)


def _format(files: Any) -> str | None:
    first = next(iter(files.values()), None) if isinstance(files, dict) and "type" not in files else files
    first = first[0] if isinstance(first, list) and first else first
    return known_format(Path(first)) if isinstance(first, str) else None


def _pre_process(draft: Draft, at: KeyPath, before_0_7: bool) -> None:
    draft.unnest((*at, "params"))
    old = before_0_7 or any(draft.has((*at, key)) for key in OLD_DATA_KEYS)
    joiner = (*at, "joiner")
    if draft.get(joiner) is None:
        draft.replace(joiner, "", "`joiner` is now an empty string")
    translate_keys(draft, at, PreProcess)
    _component_type(draft, at, *PRE_PROCESS_TYPES)
    if draft.get((*at, "dataset_type")) == "pair":
        _pair(draft, at)
    columns = (*at, "text_cols")
    if isinstance(draft.get(columns), str):
        draft.replace(columns, [draft.get(columns)], "`text_cols` is now a list")
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
                if isinstance(draft.get((*at, other)), str | list | None):  # validation reports another type
                    draft.drop((*at, other), f"`{first}` defines the text")
            break
    if not old:
        return
    if not draft.has((*at, "strategy")):
        draft.set_default((*at, "strategy"), "line-by-line", "default of this form; it is `join` today")
    if str(draft.get((*at, "strategy"))).startswith("join") and not draft.has(joiner):
        draft.set_default(joiner, "", "default of this form")


def _pair(draft: Draft, at: KeyPath) -> None:
    """Translate a `pair` dataset (up to 0.6.2): source and target columns, loss on the target."""
    kind = (*at, "pair_format")
    name = draft.get(kind) if draft.has(kind) else "default"
    if name == "custom":
        source, target = (_side(draft, at, side) for side in ("input", "output"))
        template = f"{source}{target}" if source and target else None
    else:
        template = PAIR_FORMATS.get(name) if isinstance(name, str) else None
    if template is None:
        draft.refuse((*at, "dataset_type"), f"pair format `{name}` is not supported: set `text_template`")
    elif not draft.has((*at, "text_template")):
        draft.set_default(
            (*at, "text_template"), template, f"text of pair format `{name}`", cause=(*at, "dataset_type")
        )
    for key in ("pair_format", "input_col", "input_template", "output_col", "output_template"):
        if draft.has((*at, key)):
            draft.drop((*at, key), "`text_template` defines the text")
    source_len, target_len = draft.get((*at, "max_seq_len")), draft.get((*at, "target_max_len"))
    if type(source_len) is int and type(target_len) is int and min(source_len, target_len) >= 8:
        draft.replace(
            (*at, "max_seq_len"),
            source_len + target_len,
            "`max_seq_len` is now the length of source and target together",
            rule="renamed",
        )
        draft.drop((*at, "target_max_len"), "`max_seq_len` is the length of source and target together")


def _side(draft: Draft, at: KeyPath, side: str) -> str | None:
    template, column = draft.get((*at, f"{side}_template")), draft.get((*at, f"{side}_col"))
    if isinstance(template, str):
        return template
    return f"{{{column}}}" if isinstance(column, str) else None
