"""Files that describe the result of a run: written at its end, from what is recorded."""

from __future__ import annotations

from phi_runtime.config.schema import Workflow
from phi_runtime.core.events import Emit, Event
from phi_runtime.core.project import ProjectFolder
from phi_runtime.pipeline.engine import Outcome
from phi_runtime.report.cards import write_cards


def finish_run(project: ProjectFolder, workflow: Workflow, outcome: Outcome, emit: Emit) -> None:
    """Write the cards of the models if a stage was run. What cannot be written is a warning: the result itself is complete."""
    if not outcome.done:
        return
    try:
        messages = write_cards(project, workflow)
    except OSError as e:
        messages = [f"no model card was written: {e}"]
    for message in messages:
        emit(Event("warning", "", {"message": message}))
