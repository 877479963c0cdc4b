"""The files of a project for VS Code, containers and coding agents: valid, and true to the commands that they call."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft201909Validator

from phi_scaffold.cli.app import COMMANDS, command_line
from phi_scaffold.cli.reference import DOCUMENTS
from phi_scaffold.new.answers import Answers
from phi_scaffold.new.generate import new

REPOSITORY = Path(__file__).parents[2]
# devContainer.base.schema.json of https://github.com/devcontainers/spec (CC-BY-4.0), read 2026-11-28
DEVCONTAINER = Path(__file__).parent / "schemas" / "devContainer.base.schema.json"
# Properties of a task and of its problem matcher: https://code.visualstudio.com/docs/reference/tasks-appendix, and dependsOn and
# windows of https://code.visualstudio.com/docs/debugtest/tasks, both read 2026-11-28
TASK = {"label", "type", "command", "args", "windows", "group", "dependsOn", "isBackground", "problemMatcher"}
MATCHER = {"owner", "fileLocation", "pattern"}
PATTERN = {"regexp", "kind", "file", "line", "column", "severity", "message"}
# Of a stdio server: https://code.visualstudio.com/docs/copilot/reference/mcp-configuration
MCP_SERVER = {"type", "command", "args", "env", "envFile", "cwd"}
FILES = {"cli": "docs/cli.md", "agents": "template/AGENTS.md", "skill": "template/.agents/skills/phi-scaffold/SKILL.md"}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return new(tmp_path_factory.mktemp("editor") / "p", Answers("smollm2-135m")).folder


def tasks(project: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((project / ".vscode" / "tasks.json").read_text(encoding="utf-8"))["tasks"]
    return found


def test_tasks_have_the_properties_that_vs_code_reads(project: Path) -> None:
    labels = [task["label"] for task in tasks(project)]
    assert len(set(labels)) == len(labels)
    for task in tasks(project):
        assert set(task) <= TASK
        assert task.get("dependsOn", labels[0]) in labels
        for matcher in task["problemMatcher"]:
            assert set(matcher) == MATCHER
            assert set(matcher["pattern"]) <= PATTERN
    assert {"Set up", "Plan (dry run)", "Run all stages", "Status", "Open the report", "Stop all tasks"} <= set(labels)


def test_tasks_set_the_project_up_and_call_what_exists(project: Path) -> None:
    for task in tasks(project):
        if task["command"] == "bash":
            assert (project / task["args"][0]).is_file()
            assert (project / task["windows"]["args"][3].replace("\\", "/")).is_file()
        elif "dependsOn" in task:
            assert task["dependsOn"].startswith("Set up")
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
    assert set(server) <= MCP_SERVER
    assert (server["type"], server["command"], server["args"][0]) == ("stdio", "phi-scaffold", "mcp")
    assert server["args"][0] in COMMANDS


@pytest.mark.parametrize(("target", "gpu"), [("cpu", "optional"), ("cuda", True)])
def test_the_dev_container_is_valid_and_sets_the_project_up(tmp_path: Path, target: str, gpu: object) -> None:
    folder = new(tmp_path / "p", Answers("smollm2-135m", target=target)).folder
    container = json.loads((folder / ".devcontainer" / "devcontainer.json").read_text(encoding="utf-8"))
    schema = json.loads(DEVCONTAINER.read_text(encoding="utf-8"))
    assert [error.message for error in Draft201909Validator(schema).iter_errors(container)] == []
    assert container["hostRequirements"]["gpu"] == gpu
    assert (folder / container["postCreateCommand"].split()[1]).is_file()


@pytest.mark.parametrize("name", FILES)
def test_what_documents_say_of_commands_is_generated_from_their_help(name: str) -> None:
    assert (REPOSITORY / FILES[name]).read_text(encoding="utf-8") == DOCUMENTS[name]()


def test_agents_are_sent_to_commands_and_flags_that_exist(project: Path) -> None:
    text = (project / "AGENTS.md").read_text(encoding="utf-8")
    for line in re.findall(r"`phi-scaffold ([a-z][^`]*)`", text):
        name, *arguments = shlex.split(line.replace("…", "x").replace("STAGE", "export"))
        names = [name, arguments[0]] if name in ("data", "runs") else [name]
        assert name in COMMANDS, line
        import typer

        command: Any = typer.main.get_command(command_line())
        for part in names:
            command = command.get_command(None, part)
        flags = {flag for param in command.params for flag in param.opts}
        assert {word for word in arguments if word.startswith("--")} <= flags, line
