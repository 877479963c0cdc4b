"""The report knows the run that it is of."""

from __future__ import annotations

from pathlib import Path

from phi_runtime.core.project import ProjectFolder
from phi_runtime.report.document import render
from phi_runtime.report.finish import REPORT, is_outdated


def test_a_report_is_outdated_if_the_last_run_has_not_written_it(tmp_path: Path) -> None:
    project = ProjectFolder(tmp_path, tmp_path / "config.json")
    assert not is_outdated(project), "nothing was run"
    for run in ("20260101-000000-000000", "20260102-000000-000000"):
        (project.runs / run).mkdir(parents=True)
        assert is_outdated(project)
        html = render("report.html.jinja", facts={"run": run}, trainings=[])
        (project.gen_model / REPORT).write_text(html, encoding="utf-8")
        assert not is_outdated(project)
