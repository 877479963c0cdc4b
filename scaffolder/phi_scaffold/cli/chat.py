"""phi-scaffold chat"""

from __future__ import annotations

import sys

from phi_scaffold.cli.options import (
    ConfigFile,
    Debug,
    MaxNewTokens,
    ProjectFolder,
    Quiet,
    TaskName,
    Temperature,
    TrustRemoteCode,
    Which,
    open_project,
)


def chat(
    model: Which = None,
    max_new_tokens: MaxNewTokens = 256,
    temperature: Temperature = 0.0,
    trust_remote_code: TrustRemoteCode = False,
    task_name: TaskName = None,
    project_folder: ProjectFolder = None,
    config: ConfigFile = None,
    quiet: Quiet = False,
    debug: Debug = False,  # noqa: ARG001
) -> None:
    """Talk to a model of the project, as it was trained: in a conversation, or each line in its template. An empty line ends it.

    Example: phi-scaffold chat --model merged
    """
    from phi_runtime.inference.generator import Sampling
    from phi_runtime.inference.session import open_session
    from phi_runtime.workflow.overrides import Overrides
    from phi_scaffold.environment import use_project_environment

    project = open_project(project_folder, config, task_name)
    use_project_environment(project)
    session = open_session(project, model, Overrides(trust_remote_code=trust_remote_code))
    if not quiet:
        print(f"{session.name} ({project.shown(session.path)}). An empty line ends the chat.", file=sys.stderr)
    label = "you" if session.converses else ", ".join(session.template.inputs) or "text"
    asked = f"{label}: " if sys.stdin.isatty() else ""
    said: list[dict[str, str]] = []
    while True:
        try:
            line = input(asked).strip()
        except EOFError:
            return
        if not line:
            return
        answer = ""
        for piece in session.generator.stream(session.render(line, said), Sampling(max_new_tokens, temperature)):
            answer += piece
            print(piece, end="", flush=True)
        print(flush=True)
        said += [{"role": "user", "content": line}, {"role": "assistant", "content": answer.strip()}]
