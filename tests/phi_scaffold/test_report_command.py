from __future__ import annotations

import json
import subprocess
import webbrowser
from pathlib import Path
from typing import Any

import pytest

from phi_runtime.core.project import ProjectFolder
from phi_scaffold.show import report as show
from tests.conftest import Cli
from tests.factory import tiny_project
from tests.phi_scaffold.test_cli import imported


@pytest.fixture
def project(tmp_path: Path) -> ProjectFolder:
    """A project that nothing has run in."""
    return tiny_project(tmp_path / "tiny", Path("org/tiny"))


def test_a_report_of_a_project_that_never_ran_names_the_first_command(cli: Cli, project: ProjectFolder) -> None:
    result = cli("report", "--project", project.root)
    assert (result.code, result.out) == (0, "Report: gen-model/report.html\n")
    assert "phi-scaffold run" in (project.gen_model / "report.html").read_text(encoding="utf-8")
    assert not imported(["report"], project.root) & {"numpy", "torch"}


def test_the_content_is_printed_as_json(cli: Cli, project: ProjectFolder) -> None:
    content = cli("report", "--json", "--project", project.root).json
    assert (content["path"], content["project"], content["run"]) == ("gen-model/report.html", "tiny", "")
    assert [training["name"] for training in content["trainings"]] == ["finetune"]
    assert content["trainings"][0]["evaluation"] is None


def test_two_runs_are_compared(cli: Cli, project: ProjectFolder) -> None:
    for run, rank in (("20260101-000000-000000", 8), ("20260102-000000-000000", 16)):
        folder = project.runs / run
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps({"passes": {"finetune": {"r": rank}}}), encoding="utf-8")
    content = cli("report", "--compare", "20260101", "latest", "--json", "--project", project.root).json
    assert content["path"] == "gen-model/comparison.html"
    assert content["settings"] == [{"key": "passes.finetune.r", "before": 8, "after": 16}]
    assert cli("report", "--compare", "2027", "latest", "--project", project.root).code == 2
    assert not (project.gen_model / "report.html").exists()


@pytest.mark.parametrize("opened", [True, False])
def test_the_page_is_opened_in_the_browser(
    cli: Cli, project: ProjectFolder, monkeypatch: pytest.MonkeyPatch, opened: bool
) -> None:
    pages: list[str] = []
    monkeypatch.setattr(show.shutil, "which", lambda _: None)
    monkeypatch.setattr(webbrowser, "open", lambda page: pages.append(page) or opened)
    result = cli("report", "--open", "--project", project.root)
    assert result.code == 0
    assert pages == [(project.gen_model / "report.html").as_uri()]
    assert ("no browser was found" in result.err) is not opened


def test_in_wsl_the_page_is_opened_in_the_browser_of_windows(
    cli: Cli, project: ProjectFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[list[str]] = []

    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        calls.append(command)
        return subprocess.CompletedProcess(command, 0, "C:\\report.html\n")

    monkeypatch.setattr(show.shutil, "which", lambda name: f"/bin/{name}")
    monkeypatch.setattr(show.subprocess, "run", run)
    assert cli("report", "--open", "--project", project.root).code == 0
    assert calls[-1] == ["/bin/explorer.exe", "C:\\report.html"]
