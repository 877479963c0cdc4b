"""Check data configs against their files, the columns in these, and the needs of the strategy."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from phi_runtime.checks.sections import Checks, placeholders
from phi_runtime.config.diagnostics import Finding
from phi_runtime.config.dialects.draft import MISSING
from phi_runtime.config.file_formats import FORMATS_OF_KEY, known_format
from phi_runtime.config.file_search import is_file
from phi_runtime.config.paths import data_paths, datastore_place, resolve, split_name
from phi_runtime.config.reading.source import KeyPath
from phi_runtime.config.schema import BUILDERS, DataConfig, Datastore, PreProcess
from phi_runtime.core.errors import ConfigError, DataError, MissingDependency
from phi_runtime.core.remote_job import in_job
from phi_runtime.core.suggestions import nearest
from phi_runtime.data.column_meanings import means
from phi_runtime.data.columns import first_row
from phi_runtime.data.hooks import hooks_file
from phi_runtime.data.rows import ReadOptions, scan
from phi_runtime.data.selection import read_options
from phi_runtime.data.template import PromptTemplate, TemplateError

KnownColumns = dict[tuple[Path, ReadOptions], list[str]]


def check_data(c: Checks, at: KeyPath, data: DataConfig, known_columns: KnownColumns) -> Iterator[Finding]:
    """Yield what is wrong with `data`, the data config at `at`.

    Args:
        c: The cross-check.
        at: Key path of the data config.
        data: The data config.
        known_columns: Column names, filled in as files are read: several data configs may read one file.
    """
    load, process = data.load_dataset_config, data.pre_process_data_config
    load_at, process_at = (*at, "load_dataset_config"), (*at, "pre_process_data_config")
    if c.draft.get((*process_at, "strategy")) in (process.strategy, MISSING):
        yield from _strategy(c, process_at, data)
    key = _text_key(process)
    template_at, file_at = (*process_at, key), (*load_at, "data_files")
    columns: tuple[str, ...] = process.message_columns
    if key == "text_formatting_func":
        yield from _script(c, process_at, process)
        columns = ()
    elif key != "chat_template":
        try:
            columns = PromptTemplate.from_text(process.template).columns
        except TemplateError as e:
            yield c.error(template_at, "text-template", f"`{key}`: {e}")
            return
    optional = process.optional_cols or []
    for name in optional:
        if key != "text_template" or name not in columns[:-1]:
            message = f"`{name}` is not in the prompt of `text_template`"
            yield c.error((*process_at, "optional_cols"), "unknown-reference", message, nearest(name, columns[:-1]))
    if isinstance(load.data_files, Datastore):
        yield from _datastore(c, file_at, data, load.data_files)
        return
    source_errors = list(_source(c, load_at, data))
    yield from source_errors
    if source_errors:
        return
    if key == "chat_template":
        template_at = (*process_at, "message_col") if c.draft.has((*process_at, "message_col")) else template_at
    if hooks_file(c.path) is not None:  # its functions may add and rename columns
        columns = ()
    for file in data_paths(data, c.path):
        if file.from_root:
            message = f"{file.path.name} is under the project root, not next to this file"
            yield c.warning(file_at, "found-under-root", message)
        try:
            if not is_file(file.path):
                if load.format:  # else the fetch stage downloads it
                    place = file_at if load.data_files else (*load_at, "data_dir" if load.data_dir else "data_name")
                    yield c.error(place, "file-not-found", f"no data file at {file.path}")
                return
            source = (file.path, read_options(load, file.path))
            if source not in known_columns:
                known_columns[source] = list(first_row(*source).values)
        except (DataError, MissingDependency) as e:
            yield c.error(file_at, "data", str(e))
            return
        except OSError as e:
            yield c.error(file_at, "data", f"{file.path} cannot be read: {e.strerror}")
            return
        available = known_columns[source]
        for name in available if key == "chat_template" else ():
            if means(name, "media"):
                message = f"`{name}` is not read: only the text of conversations is trained"
                yield c.warning(template_at, "media-column", message)
        filters = [(name, (*load_at, "col_filters", name)) for name in load.col_filters or ()]
        grouped = [(process.group_by, (*process_at, "group_by"))] if process.group_by and columns else []
        for name, place in [*((name, template_at) for name in columns), *filters, *grouped]:
            if name not in available and name not in optional:
                message = f"the data has no column `{name}` (it has {', '.join(available)})"
                if (
                    load.format in ("csv", "xlsx")
                    and not load.names
                    and any(len(name.split()) > 3 for name in available)
                ):
                    message += "; without a header, `names` names the columns"
                yield c.error(place, "template-column", message, nearest(name, available))


def _text_key(process: PreProcess) -> str:
    """Return the key that sets how a row becomes text."""
    for key in ("chat_template", "text_formatting_func", "text_template"):
        if getattr(process, key):
            return key
    return "text_cols"


def _source(c: Checks, at: KeyPath, data: DataConfig) -> Iterator[Finding]:
    """Yield the keys of `load_dataset_config` that exclude each other, or that name no file."""
    load = data.load_dataset_config
    files, split = load.data_files, split_name(data)
    if load.format is None:
        suffix_of = known_format(Path(f"rows.{load.data_name}"))
        near = suffix_of or nearest(load.data_name, BUILDERS)
        if "/" not in load.data_name and (files or suffix_of or (load.data_dir and near)):
            message = f"unknown format `{load.data_name}` (known: {', '.join(BUILDERS)}); a hub dataset is OWNER/NAME"
            yield c.error((*at, "data_name"), "unknown-reference", message, near)
        elif files:
            message = "`data_files` does not apply to a hub dataset: use `subset` or `data_dir`"
            yield c.error((*at, "data_files"), "contradiction", message)
        return
    for key in ("subset", "revision"):
        if getattr(load, key):
            message = f"`{key}` is for hub datasets, and `{load.data_name}` is a file format"
            yield c.error((*at, key), "contradiction", message)
    if files is None and not load.data_dir:
        yield c.error(at, "missing-key", "no data file is set: add `data_files`, or a folder as `data_dir`")
    if isinstance(files, dict) and split not in files:
        message = f"`data_files` has no split `{split}` (it has {', '.join(files)})"
        yield c.error((*at, "split"), "unknown-reference", message, nearest(split, files))
    if isinstance(files, str | list) and split != "train":
        message = f"no split `{split}`: files without splits are `train`"
        yield c.error((*at, "split"), "unknown-reference", message, "train")
    try:
        paths = data_paths(data, c.path)
    except ConfigError as e:
        yield c.error((*at, "data_files" if files else "data_dir"), "too-many-files", f"{e.what}: {e.fix}")
        return
    if files is None and load.data_dir and not paths:
        message = f"no file name in {resolve(load.data_dir, c.path).path} contains the split `{split}`"
        yield c.error((*at, "split"), "unknown-reference", message)
    for key, formats in FORMATS_OF_KEY.items():
        if load.format not in formats and c.draft.has((*at, key)):
            message = f"`{key}` is for `{'` or `'.join(formats)}`, and the files are `{load.format}`"
            yield c.error((*at, key), "contradiction", message)


def _script(c: Checks, at: KeyPath, process: PreProcess) -> Iterator[Finding]:
    if not process.user_script:
        message = "`text_formatting_func` needs `user_script`, the file that defines the function"
        yield c.error((*at, "text_formatting_func"), "missing-key", message)
    elif not (script := resolve(process.user_script, c.path).path).is_file():
        yield c.error((*at, "user_script"), "file-not-found", f"no script at {script}")
    elif not c.overrides.run_user_script:
        message = f"`{process.text_formatting_func}` is Python code of this project: it runs only with --trust-project"
        yield c.warning((*at, "text_formatting_func"), "user-script", message)


def count_rows(data: DataConfig, config_path: Path, limit: int) -> int:
    """Return the number of rows in the files of `data`, at most `limit`; `limit` if they cannot be read."""
    if isinstance(data.load_dataset_config.data_files, Datastore):
        return limit
    files = [f.path for f in data_paths(data, config_path)]
    load = data.load_dataset_config
    rows = (row for file in files for row in scan(file, read_options(load, file)))
    try:
        return sum(1 for _ in islice(rows, min(limit, sys.maxsize)))
    except (DataError, MissingDependency, OSError):
        return limit


def _datastore(c: Checks, at: KeyPath, data: DataConfig, store: Datastore) -> Iterator[Finding]:
    if not store.datastore_url and not (store.datastore_name and store.relative_path):
        message = "a datastore needs `datastore_name` and `relative_path`, or `datastore_url`"
        yield c.error(at, "missing-key", message)
    yield from placeholders(c, at, c.draft.get(at), errors=bool(c.azureml))
    is_here = datastore_place(data, c.path).is_file()
    if not c.azureml and c.host is not None and not in_job() and not is_here:
        message = (
            f"{store.address} is an Azure ML datastore, which this machine cannot read: pass its rows with --data FILE"
        )
        yield c.error(at, "azure", message)


def _strategy(c: Checks, at: KeyPath, data: DataConfig) -> Iterator[Finding]:
    process = data.pre_process_data_config
    strategy = process.strategy
    if strategy.endswith("-random") and process.max_samples is None:
        message = f"`{strategy}` needs `max_samples`, the number of sequences to sample"
        yield c.error((*at, "strategy"), "missing-key", message)
    if strategy == "join-sliding-window":
        if process.stride is None:
            message = "`join-sliding-window` needs `stride`, the tokens between the starts of two sequences"
            yield c.error((*at, "strategy"), "missing-key", message)
        elif process.stride > process.max_seq_len:
            message = f"a stride of {process.stride} skips tokens between sequences of {process.max_seq_len}"
            yield c.error((*at, "stride"), "out-of-range", message)
    if process.drop_short_sequences and strategy.startswith("join"):
        message = "`drop_short_sequences` is for line-by-line: joined rows fill their sequences"
        yield c.error((*at, "drop_short_sequences"), "contradiction", message)
    elif process.drop_short_sequences and c.draft.get((*at, "pad_to_max_len")) is True:
        message = "`drop_short_sequences` and `pad_to_max_len` exclude each other"
        yield c.error((*at, "drop_short_sequences"), "contradiction", message)
