"""Digests of the data that a stage reads, by which a later run knows if it changed."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from phi_runtime.config.paths import data_paths
from phi_runtime.config.schema import DataConfig, Datastore, Workflow
from phi_runtime.core.artifacts import digest, file_digest
from phi_runtime.data.hooks import functions_key


def fingerprint(workflow: Workflow, data_names: Iterable[str], config_path: Path) -> dict[str, str]:
    """Return a digest of the files of data configs and of the functions over their rows, by data config name.

    Data that is not on this machine is represented by its address in a datastore, or by its name.
    """
    return {name: _fingerprint(workflow.data_config(name), config_path) for name in data_names}


def _fingerprint(data: DataConfig, config_path: Path) -> str:
    files = data.load_dataset_config.data_files
    if isinstance(files, Datastore):
        return files.address
    paths = [found.path for found in data_paths(data, config_path)]
    if not paths or not all(path.is_file() for path in paths):
        return f"hub:{data.load_dataset_config.data_name}"
    digests = [file_digest(path) for path in paths]
    functions = functions_key(config_path, data)
    return digests[0] if len(digests) == 1 and not functions else digest([*digests, functions])
