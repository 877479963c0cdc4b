"""`mcp`: a client of the official package talks to the server over stdio, as an editor does."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from mcp import Client
from mcp.client.stdio import StdioServerParameters

from phi_runtime.core.locks import is_held
from phi_runtime.core.project import ProjectFolder
from phi_scaffold.cli.reference import commands
from phi_scaffold.mcp import jobs
from tests.conftest import Cli, MakeProject, edit_config
from tests.phi_scaffold.test_json_shapes import documented

pytestmark = pytest.mark.process
HELLO = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}
TOOLS = {"validate", "plan", "run", "evaluate", "status", "cancel", "ask"}


def command(project: ProjectFolder) -> list[str]:
    return [sys.executable, "-P", "-m", "phi_scaffold", "mcp", "--project", str(project.root)]


def talk(project: ProjectFolder, conversation: Callable[[Client], Awaitable[None]]) -> None:
    name, *arguments = command(project)

    async def session() -> None:
        async with Client(StdioServerParameters(command=name, args=arguments, env=dict(os.environ))) as client:
            await conversation(client)

    asyncio.run(session())


async def call(client: Client, tool: str, *, fails: bool = False, **arguments: Any) -> dict[str, Any]:
    """The result of a tool, which is the same as JSON text for clients without structured results."""
    result = await client.call_tool(tool, arguments)
    found: dict[str, Any] = result.structured_content
    assert json.loads(result.content[0].text) == found
    assert bool(result.is_error) is fails, found
    return found


async def ended(client: Client, job: str) -> dict[str, Any]:
    while (found := (await call(client, "status", job=job))["jobs"][0])["state"] == "running":
        await asyncio.sleep(0.2)
    return dict(found)


def runs(project: ProjectFolder) -> list[psutil.Process]:
    words = {"phi_scaffold", "run", str(project.root)}
    return [p for p in psutil.process_iter(["cmdline"]) if words <= set(p.info["cmdline"] or ())]


def test_the_tools_return_what_json_prints_and_jobs_are_polled(make_project: MakeProject) -> None:
    project = make_project()
    edit_config(project, lambda config: config["passes"]["finetune"].update(alhpa=3))

    async def conversation(client: Client) -> None:
        tools = (await client.list_tools()).tools
        assert {tool.name for tool in tools} == TOOLS
        assert all(tool.description and tool.annotations for tool in tools)
        found = await call(client, "validate")
        documented("`validate --json`").check(found)
        assert (found["valid"], found["findings"][0]["key"]) == (False, "passes.finetune.alhpa")
        refused = await call(client, "plan", fails=True)
        assert (refused["event"], refused["exit_code"]) == ("error", 3)
        edit_config(project, lambda config: config["passes"]["finetune"].pop("alhpa"))
        documented("`run --dry-run --json`").check(await call(client, "plan", stages=["finetune"]))
        started = await call(client, "run", stages=["--trust-project"])
        job = await ended(client, started["id"])
        assert (job["state"], job["exit_code"], job["result"]["event"]) == ("failed", 2, "error"), (
            "a stage, and no flag"
        )
        status = await call(client, "status")
        documented("`mcp`: `status`").check(status)
        assert [job["id"] for job in status["jobs"]] == ["run-1"]
        unknown = await call(client, "status", fails=True, job="run-9")
        assert (unknown["exit_code"], "run-1" in unknown["fix"]) == (2, True)

    talk(project, conversation)


@pytest.mark.slow
def test_one_job_runs_at_a_time_and_is_canceled(make_project: MakeProject) -> None:
    project = make_project(max_steps=100_000)

    async def conversation(client: Client) -> None:
        job = (await call(client, "run"))["id"]
        conflict = await call(client, "evaluate", fails=True)
        assert (conflict["exit_code"], job in conflict["message"]) == (6, True)
        canceled = await call(client, "cancel", job=job)
        assert (canceled["state"], canceled["exit_code"]) == ("canceled", 130)
        assert runs(project) == []

    talk(project, conversation)
    assert not is_held(project.gen_model / ".run.lock")


def test_a_process_that_a_signal_ends_has_the_exit_code_of_a_shell() -> None:
    code = "import os, signal; signal.signal(signal.SIGINT, signal.SIG_DFL); os.kill(os.getpid(), signal.SIGINT)"
    job = jobs.Jobs().start([sys.executable, "-c", code], ["run"])
    job.process.wait(30)
    assert job.process.returncode == -signal.SIGINT
    assert job.as_dict()["exit_code"] == 130


@pytest.mark.slow
@pytest.mark.parametrize("end", ["close", signal.SIGINT, signal.SIGTERM])
def test_the_end_of_the_server_ends_its_job_and_stdout_has_the_protocol_alone(
    make_project: MakeProject, end: str | signal.Signals
) -> None:
    project = make_project(max_steps=100_000)
    messages: list[dict[str, Any]] = [
        {"id": 1, "method": "initialize", "params": HELLO},
        {"method": "notifications/initialized"},
        {"id": 2, "method": "tools/call", "params": {"name": "run", "arguments": {}}},
    ]  # fmt: skip
    server = subprocess.Popen(
        command(project), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert server.stdin
    assert server.stdout
    answers = []
    for message in messages:
        server.stdin.write(json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n")
        server.stdin.flush()
        if "id" in message:
            answers.append(json.loads(server.stdout.readline()))
    assert [answer["id"] for answer in answers] == [1, 2]
    assert answers[1]["result"]["structuredContent"]["state"] == "running"
    while not runs(project):
        time.sleep(0.1)
    if isinstance(end, signal.Signals):
        server.send_signal(end)
    else:
        server.stdin.close()
    assert server.wait(60) == (0 if end == "close" else 130)
    assert server.stdout.read() == b""
    assert runs(project) == []
    assert not is_held(project.gen_model / ".run.lock")


@pytest.mark.slow
def test_an_agent_runs_evaluates_and_asks(make_project: MakeProject) -> None:
    project = make_project(max_steps=2)

    async def conversation(client: Client) -> None:
        job = await ended(client, (await call(client, "run"))["id"])
        assert (job["state"], job["result"]["event"]) == ("done", "run-finished")
        documented("`run --json`: `run-finished`").check(job["result"])
        job = await ended(client, (await call(client, "evaluate"))["id"])
        documented("`evaluate --json`").check(job["result"])
        answer = await call(client, "ask", prompt="--help", model="merged", max_new_tokens=2)
        documented("`generate --json`").check(answer)
        assert "--help" in answer["prompt"]
        assert {stage["state"] for stage in (await call(client, "status"))["stages"]} == {"cached"}

    talk(project, conversation)


def test_without_the_library_the_error_has_the_command_that_installs_it(
    cli: Cli, make_project: MakeProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("phi_scaffold.cli.mcp.find_spec", lambda _: None)
    result = cli("mcp", "--project", make_project().root)
    assert (result.code, "-m pip install" in result.err) == (5, True)


def test_outside_of_a_project_it_does_not_start(cli: Cli, tmp_path: Path) -> None:
    assert cli("mcp", "--project", tmp_path).code == 2


def test_a_process_that_ignores_the_interrupt_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "END_S", 0.2)
    monkeypatch.setattr(jobs, "SECOND_INTERRUPT_S", 0.1)
    code = 'import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); print(\'{"event": "x"}\', flush=True); time.sleep(60)'
    started = jobs.Jobs()
    job = started.start([sys.executable, "-c", code], ["run"])
    while job.result is None:
        time.sleep(0.01)
    assert started.cancel(job.id).as_dict()["state"] == "canceled"
    assert job.process.returncode == -signal.SIGKILL


@pytest.mark.skipif(os.name == "nt", reason="needs a shell and a named pipe of Unix")
def test_a_job_runs_until_its_output_is_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    late = """(read line < pipe; echo '{"event": "x"}') &"""  # holds stdout after the end of the command
    job = jobs.Jobs().start(["sh", "-c", f"cd '{tmp_path}'; {late}"], ["run"])
    assert job.process.wait(30) == 0
    assert (job.state, job.result) == ("running", None)
    (tmp_path / "pipe").write_text("continue\n")
    while job.state == "running":
        time.sleep(0.01)
    assert (job.state, job.result) == ("done", {"event": "x"})


def test_every_tool_is_in_the_documentation() -> None:
    page = (Path(__file__).parents[2] / "docs" / "mcp.md").read_text(encoding="utf-8")
    assert {name for name in TOOLS if f"| `{name}` |" in page} == TOOLS
    assert "mcp" in dict(commands())
