"""Write the report of a project to gen-model/report.html."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from phi_runtime.config.schema import Workflow
from phi_runtime.core.artifacts import write_text
from phi_runtime.core.project import ProjectFolder
from phi_runtime.report.as_json import as_json
from phi_runtime.report.document import document
from phi_runtime.report.outdated import REPORT
from phi_runtime.report.project_facts import read_project
from phi_runtime.report.row_views import view


def write_report(workflow: Workflow, project: ProjectFolder) -> tuple[Path, dict[str, Any]]:
    """Write the report from the files in gen-model/; return its path, and its content for `--json`. Raises OSError."""
    facts = read_project(workflow, project)
    trainings = [view(training) for training in facts.trainings]
    path = project.gen_model / REPORT
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, document(facts, trainings))
    return path, as_json(facts, trainings)
