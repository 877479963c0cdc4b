"""The place of the report of a project, and the run that it is of."""

from __future__ import annotations

import re
from contextlib import suppress

from phi_runtime.core.project import ProjectFolder

REPORT = "report.html"
_RUN = re.compile(r'<meta name="run" content="([\w-]*)">')


def is_outdated(project: ProjectFolder) -> bool:
    """Return True if the report is not of the last run, which was killed before it wrote its own."""
    last = max((folder.name for folder in project.runs.glob("*") if folder.is_dir()), default="")
    with suppress(OSError), (project.gen_model / REPORT).open(encoding="utf-8", errors="replace") as file:
        if match := _RUN.search(file.read(2000)):
            return match[1] != last
    return bool(last)
