"""The data set that a workflow names: its rows, its template and its two sides."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from phi_runtime.artefacts import file_digest
from phi_runtime.data.columns import check_row
from phi_runtime.data.rows import Row, read_rows
from phi_runtime.data.split import hold_out
from phi_runtime.data.template import PromptTemplate
from phi_runtime.errors import DataError, Location
from phi_runtime.workflow.paths import data_path
from phi_runtime.workflow.schema import DataConfig, FinetunePass, Workflow


@dataclass(frozen=True)
class Dataset:
    """What a pass trains on and what is kept from it."""

    template: PromptTemplate
    training: list[Row]
    held_out: list[Row]
    path: Path


def load_dataset(workflow: Workflow, training: FinetunePass, config_path: Path) -> Dataset:
    """Reads the rows that `training` names. Raises DataError, with the line, for a row that cannot be used."""
    data = workflow.data_config(training.train_data_config)
    template = PromptTemplate.from_text(data.pre_process_data_config.text_template)
    path, rows = _read(data, template, config_path)
    if training.eval_data_config:
        held_out_config = workflow.data_config(training.eval_data_config)
        _, held_out = _read(held_out_config, template, config_path)
        kept, _ = hold_out(rows, template, 0, training.training_args.data_seed)
    else:
        kept, held_out = hold_out(rows, template, training.eval_dataset_size, training.training_args.data_seed)
    if not kept:
        raise DataError(
            f"all {len(rows)} rows are held out, none is left to train on",
            where=Location(path),
            fix="lower eval_dataset_size",
        )
    return Dataset(template, kept, held_out, path)


def fingerprint(workflow: Workflow, training: FinetunePass, config_path: Path) -> dict[str, str]:
    """The content of every file that `training` reads, by data config name."""
    names = [n for n in (training.train_data_config, training.eval_data_config) if n]
    return {name: file_digest(data_path(workflow.data_config(name), config_path).path) for name in names}


def _read(data: DataConfig, template: PromptTemplate, config_path: Path) -> tuple[Path, list[Row]]:
    path = data_path(data, config_path).path
    rows = list(read_rows(path, data.load_dataset_config.data_name))
    for row in rows:
        check_row(path, row, template.columns)
    if not rows:
        raise DataError("the data file has no row", where=Location(path), fix="put at least one row into it")
    return path, rows
