"""Download the Hub data sets of a workflow."""

from __future__ import annotations

from pathlib import Path

from phi_runtime.config.paths import hub_path, split_name
from phi_runtime.config.schema import DataConfig, Workflow
from phi_runtime.core.artifacts import write_json
from phi_runtime.core.events import Emit


def hub_data(workflow: Workflow, config_path: Path) -> dict[Path, DataConfig]:
    """Return the data configs of Hub data sets that passes of `workflow` read, by local file."""
    rows = [step.rows for step in workflow.passes.values() if step.rows]
    names = dict.fromkeys(name for training in rows for name in training.measured_names)
    configs = [data for data in map(workflow.data_config, names) if data.load_dataset_config.format is None]
    return {hub_path(data.load_dataset_config, config_path): data for data in configs}


def fetch_data(workflow: Workflow, config_path: Path, emit: Emit, stage: str) -> None:
    """Download the missing data sets, each with a .source.json next to it that records its origin.

    Raises as `hub.download` does.
    """
    from phi_runtime.data.hub import download

    for path, data in hub_data(workflow, config_path).items():
        if path.is_file():
            continue
        facts = download(data.load_dataset_config, split_name(data), path, emit, stage)
        write_json(path.with_suffix(".source.json"), facts)
