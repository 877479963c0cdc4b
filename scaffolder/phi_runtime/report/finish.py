"""Files that describe the result of a run: model cards and the report, written at its end from what is recorded."""

from __future__ import annotations

from pathlib import Path

from phi_runtime.config.schema import Workflow
from phi_runtime.core.events import Emit, Event
from phi_runtime.core.project import ProjectFolder
from phi_runtime.pipeline.engine import Outcome
from phi_runtime.report.cards import write_cards
from phi_runtime.report.write import write_report


def finish_run(project: ProjectFolder, workflow: Workflow, outcome: Outcome, emit: Emit) -> Path | None:
    """Write the cards of the models and the report if a stage was run.

    A failure is a warning, since the models are complete, whatever is wrong with their description.

    Returns:
        The path of the report; None if it was not written.
    """
    if not outcome.done:
        return None

    def warn(message: str) -> None:
        emit(Event("warning", "", {"message": message}))

    try:
        for message in write_cards(project, workflow):
            warn(message)
    except Exception as e:
        warn(f"the model cards cannot be written: {e}")
    try:
        return write_report(workflow, project)[0]
    except Exception as e:
        warn(f"the report cannot be written: {e}")
        return None
