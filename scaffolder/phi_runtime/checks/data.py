"""Data configs against their files: which exist, what columns they have, whether the strategy has what it needs."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from phi_runtime.checks.sections import Checks, placeholders, warned
from phi_runtime.config.diagnostics import Finding
from phi_runtime.config.dialects.draft import MISSING
from phi_runtime.config.paths import data_paths, resolve, split_name
from phi_runtime.config.reading.source import KeyPath
from phi_runtime.config.schema import BUILDERS, AzureMLSystem, DataConfig, Datastore, PreProcess
from phi_runtime.core.errors import DataError, MissingDependency
from phi_runtime.core.suggestions import nearest
from phi_runtime.data.columns import column_names
from phi_runtime.data.hooks import hooks_file
from phi_runtime.data.rows import scan
from phi_runtime.data.selection import reading_of
from phi_runtime.data.template import PromptTemplate, TemplateFault


def check_data(c: Checks, at: KeyPath, data: DataConfig, known_columns: dict[Path, list[str]]) -> Iterator[Finding]:
    load, process = data.load_dataset_config, data.pre_process_data_config
    load_at, process_at = (*at, "load_dataset_config"), (*at, "pre_process_data_config")
    if c.draft.get((*process_at, "strategy")) in (process.strategy, MISSING):
        yield from _strategy(c, process_at, data)
    key = _text_key(process)
    template_at, file_at = (*process_at, key), (*load_at, "data_files")
    columns: tuple[str, ...] = (process.message_col,)
    if key == "text_formatting_func":
        yield from _script(c, process_at, process)
        columns = ()
    elif key != "chat_template":
        try:
            columns = PromptTemplate.from_text(process.template).columns
        except TemplateFault as e:
            yield c.draft.finding(template_at, "text-template", f"`{key}`: {e}")
            return
    if isinstance(load.data_files, Datastore):
        yield from _datastore(c, file_at, load.data_files)
        return
    source = list(_source(c, load_at, data))
    yield from source
    if source:
        return
    if key == "chat_template":
        template_at = (*process_at, "message_col") if c.draft.has((*process_at, "message_col")) else template_at
    hooked = hooks_file(c.path) is not None  # its functions may make other columns of these
    for found in data_paths(data, c.path):
        if load.format is None and not found.path.is_file():
            return  # fetch brings it
        if not found.path.is_file():
            place = file_at if load.data_files else (*load_at, "data_dir" if load.data_dir else "data_name")
            yield c.draft.finding(place, "file-not-found", f"there is no data file at {found.path}")
            return
        if found.from_root:
            message = f"{found.path.name} is found under the project's root, not beside this file"
            yield warned(c, file_at, "found-under-root", message)
        try:
            if found.path not in known_columns:  # several data configs may read one file
                known_columns[found.path] = column_names(found.path, reading_of(load, found.path))
        except (DataError, MissingDependency) as e:
            yield c.draft.finding(file_at, "data", str(e))
            return
        have = known_columns[found.path]
        named = [(name, template_at) for name in columns if not hooked]
        for name, place in [*named, *((name, (*load_at, "col_filters", name)) for name in load.col_filters or ())]:
            if name not in have:
                message = f"the data has no column `{name}` (it has {', '.join(have)})"
                yield c.draft.finding(place, "template-column", message, nearest(name, have))


def _text_key(process: PreProcess) -> str:
    """The key that says how the text of a row is made."""
    for key in ("chat_template", "text_formatting_func", "text_template"):
        if getattr(process, key):
            return key
    return "text_cols"


def _source(c: Checks, at: KeyPath, data: DataConfig) -> Iterator[Finding]:
    """Keys of `load_dataset_config` that do not go together."""
    load = data.load_dataset_config
    files, split = load.data_files, split_name(data)
    of_hub = [key for key in ("subset", "revision") if getattr(load, key)]
    if load.format is None:
        near = nearest(load.data_name, BUILDERS)
        if "/" not in load.data_name and (files or near):
            message = f"`{load.data_name}` is no format (they are {', '.join(BUILDERS)}); a hub data set is OWNER/NAME"
            yield c.draft.finding((*at, "data_name"), "unknown-reference", message, near)
        elif files:
            message = "files of a hub data set are not chosen by name: it has `subset` and `data_dir`"
            yield c.draft.finding((*at, "data_files"), "contradiction", message)
        return
    for key in of_hub:
        message = f"`{key}` is for a data set of the hub, and `{load.data_name}` is a format of files"
        yield c.draft.finding((*at, key), "contradiction", message)
    if files is None and not load.data_dir:
        yield c.draft.finding(at, "missing-key", "no file is named: write `data_files`, or a folder as `data_dir`")
    if isinstance(files, dict) and split not in files:
        message = f"`data_files` has no split `{split}` (it has {', '.join(files)})"
        yield c.draft.finding((*at, "split"), "unknown-reference", message, nearest(split, files))
    if isinstance(files, str | list) and split != "train":
        message = f"a file without splits of its own is `train`, there is no split `{split}`"
        yield c.draft.finding((*at, "split"), "unknown-reference", message, "train")
    if files is None and load.data_dir and not data_paths(data, c.path):
        message = f"no file in {resolve(load.data_dir, c.path).path} is named for the split `{split}`"
        yield c.draft.finding((*at, "split"), "unknown-reference", message)
    for key, format_ in (("sep", "csv"), ("sample_by", "text")):
        if load.format != format_ and c.draft.has((*at, key)):
            message = f"`{key}` is for `{format_}`, and the files are `{load.format}`"
            yield c.draft.finding((*at, key), "contradiction", message)


def _script(c: Checks, at: KeyPath, process: PreProcess) -> Iterator[Finding]:
    if not process.user_script:
        message = "`text_formatting_func` names a function of a `user_script`, and there is none"
        yield c.draft.finding((*at, "text_formatting_func"), "missing-key", message)
    elif not resolve(process.user_script, c.path).path.is_file():
        message = f"there is no script at {resolve(process.user_script, c.path).path}"
        yield c.draft.finding((*at, "user_script"), "file-not-found", message)
    elif not c.overrides.run_user_script:
        message = f"`{process.text_formatting_func}` is Python code of this project: it is called with --run-user-script alone"
        yield warned(c, (*at, "text_formatting_func"), "user-script", message)


def rows_up_to(data: DataConfig, config_path: Path, most: int) -> int:
    """How many rows the files of `data` have, counted up to `most`; `most` where they cannot be read."""
    if isinstance(data.load_dataset_config.data_files, Datastore):
        return most
    files = [f.path for f in data_paths(data, config_path)]
    load = data.load_dataset_config
    rows = (row for file in files for row in scan(file, reading_of(load, file)))
    try:
        return sum(1 for _ in islice(rows, most))
    except (DataError, MissingDependency):
        return most


def _datastore(c: Checks, at: KeyPath, store: Datastore) -> Iterator[Finding]:
    if not store.datastore_url and not (store.datastore_name and store.relative_path):
        message = "a datastore needs `datastore_name` and `relative_path`, or `datastore_url`"
        yield c.draft.finding(at, "missing-key", message)
    yield from placeholders(c, at, c.draft.get(at))
    host = c.parts.systems.get(c.parts.host) if isinstance(c.parts.host, str) else None
    if host is not None and not isinstance(host, AzureMLSystem):
        message = f"{store.address} is an Azure ML datastore, and the passes run on this machine: give its rows with --data FILE"
        yield c.draft.finding(at, "azure", message)


def _strategy(c: Checks, at: KeyPath, data: DataConfig) -> Iterator[Finding]:
    process = data.pre_process_data_config
    strategy = process.strategy
    if strategy.endswith("-random") and process.max_samples is None:
        message = f"`{strategy}` draws `max_samples` sequences: write how many"
        yield c.draft.finding((*at, "strategy"), "missing-key", message)
    if strategy == "join-sliding-window":
        if process.stride is None:
            message = "`join-sliding-window` needs a `stride`, the tokens between the starts of two sequences"
            yield c.draft.finding((*at, "strategy"), "missing-key", message)
        elif process.stride > process.max_seq_len:
            message = f"a stride of {process.stride} leaves out tokens between sequences of {process.max_seq_len}"
            yield c.draft.finding((*at, "stride"), "out-of-range", message)
    if process.drop_short_sequences and strategy.startswith("join"):
        message = "`drop_short_sequences` is for line-by-line: joined rows fill their sequences"
        yield c.draft.finding((*at, "drop_short_sequences"), "contradiction", message)
    elif process.drop_short_sequences and c.draft.get((*at, "pad_to_max_len")) is True:
        message = "`drop_short_sequences` and `pad_to_max_len` exclude each other"
        yield c.draft.finding((*at, "drop_short_sequences"), "contradiction", message)
