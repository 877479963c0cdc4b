"""The name of the report on the data of a training, in the record of a run."""

from __future__ import annotations

from phi_runtime.config.schema import Workflow

FILE = "data_report.json"


def report_file(workflow: Workflow, training: str) -> str:
    """Return the name, in the record of a run, of the report on the data of the pass `training`."""
    first = next(iter(workflow.trainings), training)
    return FILE if training == first else f"data_report-{training}.json"
