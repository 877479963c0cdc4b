"""Data configs against their files: which exist, what columns they have, whether the strategy has what it needs."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from phi_runtime.data.columns import column_names
from phi_runtime.data.rows import read_rows
from phi_runtime.data.template import PromptTemplate, TemplateFault
from phi_runtime.errors import DataError
from phi_runtime.suggest import nearest
from phi_runtime.workflow.diagnostics import Finding
from phi_runtime.workflow.draft import MISSING
from phi_runtime.workflow.parts import Checks, placeholders, warned
from phi_runtime.workflow.paths import data_paths, split_name
from phi_runtime.workflow.schema import AzureMLSystem, DataConfig, Datastore
from phi_runtime.workflow.source import KeyPath


def check_data(c: Checks, at: KeyPath, data: DataConfig, known_columns: dict[Path, list[str]]) -> Iterator[Finding]:
    load, process = data.load_dataset_config, data.pre_process_data_config
    if c.draft.get((*at, "pre_process_data_config", "strategy")) in (process.strategy, MISSING):
        yield from _strategy(c, (*at, "pre_process_data_config"), data)
    key = "text_template" if process.text_template else "text_cols"
    template_at, file_at = (*at, "pre_process_data_config", key), (*at, "load_dataset_config", "data_files")
    try:
        template = PromptTemplate.from_text(process.template)
    except TemplateFault as e:
        yield c.draft.finding(template_at, "text-template", f"`{key}`: {e}")
        return
    if isinstance(load.data_files, Datastore):
        yield from _datastore(c, file_at, load.data_files)
        return
    split = split_name(data)
    if isinstance(load.data_files, dict) and split not in load.data_files:
        known = list(load.data_files)
        message = f"`data_files` has no split `{split}` (it has {', '.join(known)})"
        yield c.draft.finding(
            (*at, "load_dataset_config", "split"), "unknown-reference", message, nearest(split, known)
        )
        return
    if not isinstance(load.data_files, dict) and split != "train":
        message = f"a file without splits of its own is `train`, there is no split `{split}`"
        yield c.draft.finding((*at, "load_dataset_config", "split"), "unknown-reference", message, "train")
    for found in data_paths(data, c.path):
        if not found.path.is_file():
            yield c.draft.finding(file_at, "file-not-found", f"there is no data file at {found.path}")
            return
        if found.from_root:
            message = f"{found.path.name} is found under the project's root, not beside this file"
            yield warned(c, file_at, "found-under-root", message)
        try:
            if found.path not in known_columns:  # several data configs may read one file
                known_columns[found.path] = column_names(found.path, load.data_name)
        except DataError as e:
            yield c.draft.finding(file_at, "data", str(e))
            return
        columns = known_columns[found.path]
        filters_at = (*at, "load_dataset_config", "col_filters")
        named = [(name, template_at) for name in template.columns]
        for name, place in [*named, *((name, (*filters_at, name)) for name in load.col_filters or ())]:
            if name not in columns:
                message = f"the data has no column `{name}` (it has {', '.join(columns)})"
                yield c.draft.finding(place, "template-column", message, nearest(name, columns))


def rows_up_to(data: DataConfig, config_path: Path, most: int) -> int:
    """How many rows the files of `data` have, counted up to `most`; `most` where they cannot be read."""
    if isinstance(data.load_dataset_config.data_files, Datastore):
        return most
    files = [f.path for f in data_paths(data, config_path)]
    rows = (row for file in files for row in read_rows(file, data.load_dataset_config.data_name))
    try:
        return sum(1 for _ in islice(rows, most))
    except DataError:
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
