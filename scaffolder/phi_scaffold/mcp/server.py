"""The tools: each runs a command with --json in a separate process, and returns what it prints."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

import anyio
from mcp.server import MCPServer
from mcp_types import CallToolResult, TextContent, ToolAnnotations
from pydantic import Field

from phi_runtime.core.errors import Interrupted, PhiError, WorkFailed
from phi_runtime.core.events import error_event
from phi_runtime.workers.process import python
from phi_scaffold import __version__
from phi_scaffold.mcp.jobs import Jobs, end_all
from phi_scaffold.show.inert import raw

_INSTRUCTIONS = (
    "Fine-tune, export and evaluate the small language model of one project. After an edit in fine-tuning/: `validate`; before a "
    "run: `plan`; `run` and `evaluate` start a job: poll `status`. Results have the keys of `phi-scaffold COMMAND --json`; an error "
    "has `message` and `fix`."
)
_READ = ToolAnnotations(read_only_hint=True, open_world_hint=False)
_WORK = ToolAnnotations(read_only_hint=False, destructive_hint=False, idempotent_hint=True, open_world_hint=True)
_STOP = ToolAnnotations(read_only_hint=False, destructive_hint=False, idempotent_hint=True, open_world_hint=False)
_LAST_LINES = 5

Stages = Annotated[list[str] | None, Field(description="Stages to bring up to date, such as finetune; default: all.")]
Until = Annotated[str | None, Field(description="Stop after this stage.")]
Force = Annotated[list[str] | None, Field(description="Run these stages even if they are cached.")]
Model = Annotated[
    str | None, Field(description="base, adapter, merged, onnx or the name of a pass; default: the last.")
]
JobId = Annotated[str, Field(description="Id that `run` or `evaluate` returned.")]


class ProjectTools:
    """The tools of a project.

    Args:
        config: Its config.
        flags: Flags that name project, config and task.
    """

    def __init__(self, config: str, flags: Sequence[str]) -> None:
        self.config, self.flags, self.jobs = config, tuple(flags), Jobs()

    async def validate(self) -> CallToolResult:
        """Check the config; each finding has path, line, column, key, message and fix. Takes a second."""
        return await self._call("validate", self.config, project=False)

    async def plan(self, stages: Stages = None, until: Until = None, force: Force = None) -> CallToolResult:
        """Show the stages that would run and why, with memory and disk. Takes seconds; writes nothing."""
        return await self._call("run", "--dry-run", "--no-step", *_selection(stages, until, force))

    async def run(self, stages: Stages = None, until: Until = None, force: Force = None) -> CallToolResult:
        """Start a job that runs the stages that are not up to date: minutes to hours. Poll it with `status`. It resumes."""
        return self._start("run", *_selection(stages, until, force))

    async def evaluate(self, model: Model = None) -> CallToolResult:
        """Start a job that compares base, adapter, merged and ONNX model on the test rows. Poll it with `status`."""
        return self._start("evaluate", *_option("--model", model))

    async def status(
        self, job: Annotated[str, Field(description="Only this job; default: all jobs of this server.")] = ""
    ) -> CallToolResult:
        """Show the state of each stage, and of the jobs with their last events and results."""
        try:
            jobs = [found.as_dict() for found in self.jobs.named(job)]
        except PhiError as e:
            return _error(e)
        return await self._call("status", jobs=jobs)

    async def cancel(self, job: JobId) -> CallToolResult:
        """Stop a job. Complete steps are kept, and the next `run` resumes."""
        try:
            canceled = await anyio.to_thread.run_sync(self.jobs.cancel, job)
        except PhiError as e:
            return _error(e)
        return _result(canceled.as_dict())

    async def ask(
        self,
        prompt: Annotated[
            str, Field(description='The prompt; for a template with several columns, JSON: {"column": "text"}.')
        ],
        model: Model = None,
        max_new_tokens: Annotated[int, Field(ge=1, description="Longest answer, in tokens.")] = 256,
    ) -> CallToolResult:
        """Answer one prompt with a model of the project. It is loaded each time: seconds for a small one."""
        limit = f"--max-new-tokens={max_new_tokens}"
        return await self._call("generate", *_option("--model", model), limit, "--", prompt)

    async def _call(self, *arguments: str, project: bool = True, **more: Any) -> CallToolResult:
        """Run a command and return the object that it prints, with the keys of `more` in addition."""
        done = await anyio.run_process(self._command(arguments, project=project), stdin=subprocess.DEVNULL, check=False)
        last = done.stdout.decode(errors="replace").strip().rpartition("\n")[2]
        try:
            value = json.loads(last)
        except ValueError:
            lines = done.stderr.decode(errors="replace").strip().splitlines()[-_LAST_LINES:]
            failed = WorkFailed(
                "\n".join(lines) or f"`{arguments[0]}` ended with {done.returncode} and printed nothing"
            )
            return _error(failed)
        return _result({**value, **more}, is_error=value.get("event") == "error")

    def _start(self, *arguments: str) -> CallToolResult:
        try:
            return _result(self.jobs.start(self._command(arguments), arguments).as_dict())
        except PhiError as e:
            return _error(e)

    def _command(self, arguments: Sequence[str], *, project: bool = True) -> list[str]:
        return [*python("phi_scaffold", arguments[0], "--json"), *(self.flags if project else ()), *arguments[1:]]


def _option(flag: str, value: str | None) -> list[str]:
    return [] if value is None else [f"{flag}={value}"]


def _selection(stages: Sequence[str] | None, until: str | None, force: Sequence[str] | None) -> list[str]:
    forced = [word for stage in force or () for word in _option("--force", stage)]
    return [*_option("--until", until), *forced, "--", *(stages or ())]


def _result(value: dict[str, Any], *, is_error: bool = False) -> CallToolResult:
    text = TextContent(type="text", text=json.dumps(value, ensure_ascii=False))
    return CallToolResult(content=[text], structured_content=value, is_error=is_error)


def _error(error: PhiError) -> CallToolResult:
    return _result(error_event(error).as_dict(), is_error=True)


def serve(config: str, flags: Sequence[str]) -> None:
    """Answer the client on stdin and stdout until it closes them, or until Ctrl-C; then end all jobs.

    The transport keeps stdout for the protocol: what else is written there goes to stderr.
    """
    tools = ProjectTools(config, flags)
    server = MCPServer("phi-scaffold", version=__version__, instructions=_INSTRUCTIONS, log_level="ERROR")
    annotated: Mapping[Callable[..., Any], ToolAnnotations] = {
        tools.validate: _READ,
        tools.plan: _READ,
        tools.run: _WORK,
        tools.evaluate: _WORK,
        tools.status: _READ,
        tools.cancel: _STOP,
        tools.ask: _READ,
    }
    for tool, hints in annotated.items():
        server.add_tool(tool, annotations=hints)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    os.environ["PYTHONIOENCODING"] = "utf-8"  # of the commands
    sys.stdout = raw(sys.stdout)
    try:
        server.run("stdio")
    finally:
        end_all()


def _stop(*_: object) -> None:
    """End the server at once: a thread that waits for stdin cannot be interrupted."""
    end_all()
    os._exit(Interrupted.exit_code)
