"""Where the files that a config names lie: relative to the config's own folder, as Olive has it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from phi_runtime.workflow.schema import DataConfig, Datastore


@dataclass(frozen=True)
class Resolved:
    """A path, and whether it was found under the project's root instead of beside the config (AI Toolkit wrote them so)."""

    path: Path
    from_root: bool = False


def resolve(written: str, config_path: Path) -> Resolved:
    """The file or folder that `written` means. One that exists nowhere yet is expected beside the config."""
    beside = Path(config_path.parent, written)
    under_root = Path(config_path.parent.parent, written)
    if not beside.exists() and under_root.exists():
        return Resolved(_normal(under_root), from_root=True)
    return Resolved(_normal(beside))


def data_paths(data: DataConfig, config_path: Path) -> list[Resolved]:
    """The files of the split that `data` names, in the order in which they are read.

    Empty where there is none on this machine: no files for that split, or a file in an Azure ML datastore.
    """
    files = data.load_dataset_config.data_files
    if isinstance(files, Datastore):
        return []
    if isinstance(files, dict):
        files = files.get(split_name(data), [])
    return [resolve(file, config_path) for file in ([files] if isinstance(files, str) else files)]


def split_name(data: DataConfig) -> str:
    """`train` of `train[:90%]`."""
    return data.load_dataset_config.split.partition("[")[0]


def _normal(path: Path) -> Path:
    # Not Path.resolve: a symlinked project must keep the names that its user sees.
    return Path(os.path.normpath(path.absolute()))
