"""Write the differences of two runs as a page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from phi_runtime.core.artifacts import write_text
from phi_runtime.core.project import ProjectFolder
from phi_runtime.report.differences import compare_runs
from phi_runtime.report.document import render
from phi_runtime.report.history import find_run

COMPARISON = "comparison.html"


def write_comparison(project: ProjectFolder, before: str, after: str) -> tuple[Path, dict[str, Any]]:
    """Write the differences of two runs to gen-model/comparison.html; return its path, and its content for `--json`.

    Args:
        before, after: Ids of runs, or their beginnings; `latest` is the newest run.

    Raises:
        UsageError: There is no such run.
        OSError: The file cannot be written.
    """
    differences = compare_runs(find_run(project, before), find_run(project, after))
    path = project.gen_model / COMPARISON
    write_text(path, render("comparison.html.jinja", differences=differences))
    return path, differences.as_dict()
