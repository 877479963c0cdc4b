"""The files of a project for VS Code, containers and coding agents: valid, and true to the commands that they call."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer

from phi_scaffold.cli.app import COMMANDS, command_line
from phi_scaffold.cli.reference import DOCUMENTS
from phi_scaffold.new.answers import Answers
from phi_scaffold.new.generate import new
from tests.generated.editor_schemas import EXTENSIONS, invalid_editor_files

REPOSITORY = Path(__file__).parents[2]
DOCUMENT_FILES = {"cli": "docs/cli.md", "agents": "template/AGENTS.md"}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return new(tmp_path_factory.mktemp("editor") / "p", Answers("smollm2-135m")).folder


def tasks(project: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((project / ".vscode" / "tasks.json").read_text(encoding="utf-8"))["tasks"]
    return found


def test_the_files_for_editors_are_valid(project: Path) -> None:
    assert invalid_editor_files(project) == []
    labels = [task["label"] for task in tasks(project)]
    assert len(set(labels)) == len(labels)
    assert {"Set up", "Plan (dry run)", "Run all stages", "Status", "Open the report", "Stop all tasks"} <= set(labels)


@pytest.mark.parametrize(
    ("name", "old", "new_text"),
    [
        (".vscode/tasks.json", '"isBackground": true', '"isBackgroundTask": true'),
        (".vscode/tasks.json", '"type": "process"', '"type": "program"'),
        (".vscode/tasks.json", '"kind": "file"', '"kind": "path"'),
        (".vscode/launch.json", '"justMyCode": false', '"justMyCodes": false'),
        (".vscode/launch.json", '"openExternally"', '"openBrowser"'),
        (".vscode/extensions.json", "charliermarsh.ruff", "astral-sh.ruff"),
        (".vscode/settings.json", "files.watcherExclude", "files.watchExclude"),
        (".vscode/mcp.json", '"stdio"', '"pipe"'),
        (".devcontainer/devcontainer.json", '"optional"', '"maybe"'),
    ],
)
def test_the_schemas_find_a_slip(project: Path, name: str, old: str, new_text: str) -> None:
    text = (project / name).read_text(encoding="utf-8")
    (project / name).write_text(text.replace(old, new_text), encoding="utf-8")
    try:
        assert [line for line in invalid_editor_files(project) if line.startswith(name)]
    finally:
        (project / name).write_text(text, encoding="utf-8")


def test_what_is_debugged_sets_the_project_up_and_exists(project: Path) -> None:
    labels = {task["label"] for task in tasks(project)}
    text = (project / ".vscode" / "launch.json").read_text(encoding="utf-8")
    for configuration in json.loads(text)["configurations"]:
        assert configuration["preLaunchTask"] in labels
        for python in (configuration["python"], configuration["windows"]["python"]):
            assert re.match(r"\$\{workspaceFolder\}[/\\]\.venv[/\\]", python)
        if "module" in configuration:
            assert configuration["args"][0] in COMMANDS
        elif configuration["program"] != "${file}":
            assert (project / configuration["program"].removeprefix("${workspaceFolder}/")).is_file()


def test_containers_get_the_extensions_that_are_recommended(project: Path) -> None:
    container = json.loads((project / ".devcontainer" / "devcontainer.json").read_text(encoding="utf-8"))
    recommended = json.loads((project / ".vscode" / "extensions.json").read_text(encoding="utf-8"))["recommendations"]
    assert container["customizations"]["vscode"]["extensions"] == recommended
    assert set(recommended) == set(EXTENSIONS)


def test_tasks_set_the_project_up_and_call_what_exists(project: Path) -> None:
    labels = {task["label"] for task in tasks(project)}
    for task in tasks(project):
        if task["command"] == "bash":
            assert (project / task["args"][0]).is_file()
            assert (project / task["windows"]["args"][3].replace("\\", "/")).is_file()
        elif "dependsOn" in task:
            assert task["dependsOn"] in {label for label in labels if label.startswith("Set up")}
            if task["args"][0] == "-m":
                assert task["args"][2] in COMMANDS
            else:
                assert (project / task["args"][0]).is_file()


@pytest.mark.parametrize(
    ("line", "file"),
    [
        ("fine-tuning/olive-config.json:12:9: error: unknown key `alhpa`", "fine-tuning/olive-config.json"),
        (
            "/home/me/my project/datasets/train.jsonl:3:1: warning: a row is empty",
            "/home/me/my project/datasets/train.jsonl",
        ),
        (r"C:\work\p\fine-tuning\sweep.yaml:2:1: error: not a number", r"C:\work\p\fine-tuning\sweep.yaml"),
        ("datasets/reviews.csv: error: the data file does not exist", "datasets/reviews.csv"),
        ("error: the work failed", None),
        ("  help: remove it", None),
    ],
)
def test_the_problem_matcher_finds_the_place_of_a_finding(project: Path, line: str, file: str | None) -> None:
    matchers = next(task for task in tasks(project) if task["label"] == "Run all stages")["problemMatcher"]
    patterns = [matcher["pattern"] for matcher in matchers]
    found = [match[pattern["file"]] for pattern in patterns if (match := re.match(pattern["regexp"], line))]
    assert found == ([file] if file else [])


def test_the_mcp_server_is_one_that_vs_code_starts(project: Path) -> None:
    (server,) = json.loads((project / ".vscode" / "mcp.json").read_text(encoding="utf-8"))["servers"].values()
    assert (server["command"], server["args"][0]) == ("phi-scaffold", "mcp")
    assert server["args"][0] in COMMANDS


@pytest.mark.parametrize(("target", "gpu"), [("cpu", "optional"), ("cuda", True)])
def test_the_dev_container_is_valid_and_sets_the_project_up(tmp_path: Path, target: str, gpu: object) -> None:
    folder = new(tmp_path / "p", Answers("smollm2-135m", target=target)).folder
    container = json.loads((folder / ".devcontainer" / "devcontainer.json").read_text(encoding="utf-8"))
    assert invalid_editor_files(folder) == []
    assert container["hostRequirements"]["gpu"] == gpu
    assert (folder / container["postCreateCommand"].split()[1]).is_file()


@pytest.mark.parametrize("name", DOCUMENT_FILES)
def test_what_documents_say_of_commands_is_generated_from_their_help(name: str) -> None:
    assert (REPOSITORY / DOCUMENT_FILES[name]).read_text(encoding="utf-8") == DOCUMENTS[name]()


def test_the_skill_for_agents_sends_them_to_agents_md(project: Path) -> None:
    skill = project / ".agents" / "skills" / "phi-scaffold" / "SKILL.md"
    (target,) = re.findall(r"\[AGENTS.md\]\((.+?)\)", skill.read_text(encoding="utf-8"))
    assert (skill.parent / target).resolve() == project / "AGENTS.md"


def test_agents_are_sent_to_commands_and_flags_that_exist(project: Path) -> None:
    text = (project / "AGENTS.md").read_text(encoding="utf-8")
    app = typer.main.get_command(command_line())
    for line in re.findall(r"`phi-scaffold ([a-z][^`]*)`", text):
        name, *arguments = shlex.split(line.replace("…", "x").replace("STAGE", "export"))
        names = [name, arguments[0]] if name in ("data", "runs") else [name]
        assert name in COMMANDS, line
        command: Any = app
        for part in names:
            command = command.get_command(None, part)
        flags = {flag for param in command.params for flag in param.opts}
        assert {word for word in arguments if word.startswith("--")} <= flags, line
