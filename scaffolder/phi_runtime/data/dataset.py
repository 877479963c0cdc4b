"""The data set that a workflow names: its rows on two sides, and how those of each side become sequences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from phi_runtime.artefacts import digest, file_digest
from phi_runtime.data.columns import check_row
from phi_runtime.data.rows import Row
from phi_runtime.data.selection import select_rows
from phi_runtime.data.split import hold_out
from phi_runtime.data.template import PromptTemplate
from phi_runtime.errors import DataError, Location
from phi_runtime.workflow.paths import data_paths, split_name
from phi_runtime.workflow.schema import DataConfig, Datastore, FinetunePass, PreProcess, Workflow


@dataclass(frozen=True)
class Side:
    """Rows, and how they become sequences. `path` is the first of the files that they come from."""

    rows: list[Row]
    template: PromptTemplate
    settings: PreProcess
    completion_only: bool
    path: Path


@dataclass(frozen=True)
class Dataset:
    """What a pass trains on and what is kept from it."""

    training: Side
    held_out: Side


def load_dataset(workflow: Workflow, training: FinetunePass, config_path: Path) -> Dataset:
    """Reads the rows that `training` names. Raises DataError, with the line, for a row that cannot be used.

    Held-out rows of an eval_data_config are as that one says. Those of eval_dataset_size are all taken, none drawn.
    """
    seed = training.training_args.order_seed
    read = _read(workflow.data_config(training.train_data_config), training, config_path)
    if training.eval_data_config:
        held_out = _read(workflow.data_config(training.eval_data_config), training, config_path)
        kept, _ = hold_out(read.rows, read.template, 0, seed)
    else:
        kept, held_out_rows = hold_out(read.rows, read.template, training.eval_dataset_size, seed)
        held_out = replace(read, rows=held_out_rows, settings=_without_draws(read.settings))
    if not kept:
        raise DataError(
            f"all {len(read.rows)} rows are held out, none is left to train on",
            where=Location(read.path),
            fix="lower eval_dataset_size",
        )
    if read.settings.strategy != "line-by-line" or read.settings.max_samples:
        kept = _in_order_of(read.rows, kept)
    return Dataset(replace(read, rows=kept), held_out)


def completion_only(training: FinetunePass, settings: PreProcess, template: PromptTemplate) -> bool:
    """Whether the completion alone is trained, which completion_only_loss: null leaves to the form of the data."""
    if training.completion_only_loss is not None:
        return training.completion_only_loss
    asks = settings.text_template is not None and bool(template.inputs)
    return asks and settings.strategy in ("line-by-line", "line-by-line-random")


def fingerprint(workflow: Workflow, training: FinetunePass, config_path: Path) -> dict[str, str]:
    """The content of the files that `training` reads, or their address in a datastore, by data config name."""
    names = [n for n in (training.train_data_config, training.eval_data_config) if n]
    return {name: _fingerprint(workflow.data_config(name), config_path) for name in names}


def _fingerprint(data: DataConfig, config_path: Path) -> str:
    files = data.load_dataset_config.data_files
    if isinstance(files, Datastore):
        return files.address
    digests = [file_digest(file.path) for file in data_paths(data, config_path)]
    return digests[0] if len(digests) == 1 else digest(digests)


def _read(data: DataConfig, training: FinetunePass, config_path: Path) -> Side:
    settings = data.pre_process_data_config
    template = PromptTemplate.from_text(settings.template)
    files = [file.path for file in data_paths(data, config_path)]
    if not files:
        raise _no_file(data, config_path)
    placed = select_rows(data.load_dataset_config, files)
    for path, row in placed:
        check_row(path, row, template.columns)
    alone = completion_only(training, settings, template)
    return Side([row for _, row in placed], template, settings, alone, files[0])


def _no_file(data: DataConfig, config_path: Path) -> DataError:
    files = data.load_dataset_config.data_files
    if isinstance(files, Datastore):
        what = f"the data of `{data.name}` lies in Azure ML ({files.address}), not on this machine"
        fix = "run it there, or put a local file into data_files"
    else:
        what = f"`{data.name}` has no files for the split `{split_name(data)}`"
        fix = f"its splits are {', '.join(files)}"
    return DataError(what, where=Location(config_path), fix=fix)


def _without_draws(settings: PreProcess) -> PreProcess:
    return settings.model_copy(update={"strategy": settings.strategy.removesuffix("-random"), "max_samples": None})


def _in_order_of(rows: Sequence[Row], kept: Sequence[Row]) -> list[Row]:
    # By identity: two rows may be equal.
    wanted = {id(row) for row in kept}
    return [row for row in rows if id(row) in wanted]
