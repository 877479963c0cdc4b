"""Files that describe the result of a run: model cards and the report, written at its end from what is recorded."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

from phi_runtime.config.schema import Workflow
from phi_runtime.core.events import Emit, Event
from phi_runtime.core.project import ProjectFolder
from phi_runtime.pipeline.engine import Outcome
from phi_runtime.report.verdict import Verdict, judge_trainings

REPORT = "report.html"
_RUN = re.compile(r'<meta name="run" content="([\w-]*)">')


def is_outdated(project: ProjectFolder) -> bool:
    """Return True if the report is not of the last run, which was killed before it wrote its own."""
    last = max((folder.name for folder in project.runs.glob("*") if folder.is_dir()), default="")
    with suppress(OSError), (project.gen_model / REPORT).open(encoding="utf-8", errors="replace") as file:
        if match := _RUN.search(file.read(2000)):
            return match[1] != last
    return bool(last)


def finish_run(project: ProjectFolder, workflow: Workflow, outcome: Outcome, emit: Emit) -> Path | None:
    """Write the cards of the models and the report if a stage was run, now or by a run that was killed before it wrote them.

    A failure is a warning, since the models are complete, whatever is wrong with their description.

    Returns:
        The path of the report; None if it was not written.
    """
    if not outcome.done and not is_outdated(project):
        return None
    from phi_runtime.report.cards import write_cards  # a run that has nothing to do writes none

    try:
        for message in write_cards(project, workflow):
            _warn(emit, message)
    except Exception as e:
        _warn(emit, f"the model cards cannot be written: {e}")
    return write_page(project, workflow, emit)


def write_page(project: ProjectFolder, workflow: Workflow, emit: Emit) -> Path | None:
    """Write the report, and return its path; a failure is a warning."""
    from phi_runtime.report.write import write_report  # imports Jinja

    try:
        return write_report(workflow, project)[0]
    except Exception as e:
        _warn(emit, f"the report cannot be written: {e}")
        return None


def judge_run(project: ProjectFolder, workflow: Workflow, outcome: Outcome, emit: Emit) -> dict[str, Verdict]:
    """Return the verdict of each training; a failure is a warning."""
    try:
        return judge_trainings(project, workflow, outcome.evaluation, outcome.done)
    except Exception as e:
        _warn(emit, f"there is no verdict: {type(e).__name__}: {e}")
        return {}


def _warn(emit: Emit, message: str) -> None:
    emit(Event("warning", "", {"message": message}))
