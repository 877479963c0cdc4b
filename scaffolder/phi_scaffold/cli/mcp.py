"""The command `phi-scaffold mcp`."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

from phi_runtime.core.errors import MissingDependency
from phi_scaffold.cli.options import Flags, accepts


@accepts("trust_project", "task_name", "project_folder", "config", "debug")
def mcp(flags: Flags) -> None:
    """Serve the commands of a project to a coding agent: the Model Context Protocol on stdin and stdout.

    Tools: validate, plan, run, status, evaluate, cancel, ask. Results are those of `--json`. `run` and `evaluate` start a job, one at
    a time, which `status` shows. The end of stdin and Ctrl-C end the job; the next run resumes.

    Example: phi-scaffold mcp --project mood
    """
    if find_spec("mcp") is None:
        raise MissingDependency("`mcp` needs the library mcp", fix=_install_command())
    from phi_scaffold.mcp.server import serve

    project = flags.find_project()
    flags.record_trust(project)
    named = ["--project", str(project.root)] if flags.config is None else ["--config", str(project.config)]
    task = [] if flags.task_name is None else ["--task-name", flags.task_name]
    serve(str(project.config), [*named, *task])


def _install_command() -> str:
    """Return the command that adds the library to the environment of this phi-scaffold."""
    if Path(sys.prefix, "uv-receipt.toml").is_file():
        return 'uv tool install "phi-scaffold[mcp]"'
    if Path(sys.prefix, "pipx_metadata.json").is_file():
        return 'pipx inject phi-scaffold "mcp>=2.3,<2.4"'
    return f'"{sys.executable}" -m pip install "mcp>=2.3,<2.4"'
