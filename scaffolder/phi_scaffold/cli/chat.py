"""phi-scaffold chat"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

from phi_runtime.core.errors import PhiError
from phi_scaffold.cli.options import (
    ConfigFile,
    Debug,
    Json,
    MaxNewTokens,
    ProjectFolder,
    Quiet,
    Seed,
    Stop,
    TaskName,
    Temperature,
    TopK,
    TopP,
    TrustRemoteCode,
    Which,
    WhichAdapter,
    adapter_of,
    open_project,
)


def chat(
    model: Which = None,
    adapter: WhichAdapter = None,
    max_new_tokens: MaxNewTokens = 256,
    temperature: Temperature = 0.0,
    top_p: TopP = 1.0,
    top_k: TopK = 0,
    seed: Seed = None,
    stop: Stop = None,
    trust_remote_code: TrustRemoteCode = False,
    task_name: TaskName = None,
    project_folder: ProjectFolder = None,
    config: ConfigFile = None,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,  # noqa: ARG001
) -> None:
    """Talk to a model of the project, as it was trained: in a conversation, or each line in its template. An empty line ends it,
    Ctrl-C the answer.

    Example: phi-scaffold chat --model merged
    """
    from phi_runtime.config.overrides import Overrides
    from phi_runtime.inference.generator import Sampling
    from phi_runtime.pipeline.session import open_session, select_adapter
    from phi_scaffold.environment import use_project_environment

    project = open_project(project_folder, config, task_name)
    use_project_environment(project)
    named, more = adapter_of(adapter)
    opened = open_session(project, model, Overrides(trust_remote_code=trust_remote_code), adapters=more)
    session = opened.with_adapter(select_adapter(opened.generator, named))
    sampling = Sampling(max_new_tokens, temperature, top_p, top_k, seed, tuple(stop or ()))
    if not (quiet or as_json):
        with_it = f" with the adapter {session.adapter}" if session.adapter else ""
        print(f"{session.name} ({project.shown(session.path)}){with_it}. An empty line ends the chat.", file=sys.stderr)
    label = "you" if session.converses else ", ".join(session.template.inputs) or "text"
    at_terminal = sys.stdin.isatty()
    said: list[dict[str, str]] = []
    while line := _ask(f"{label}: " if at_terminal else ""):
        try:
            answer = session.answer(line, sampling, said)
        except PhiError as e:
            if not at_terminal:
                raise
            print(f"error: {e}\n  {e.fix}", file=sys.stderr)
            continue
        text = ""
        try:
            for piece in answer:
                text += piece.text
                if not as_json:
                    print(piece.text, end="", flush=True)
        except KeyboardInterrupt:
            answer.close()
            if not at_terminal:
                raise
        print(
            json.dumps({"answer": text, "finish_reason": answer.finish, **vars(answer.usage)}) if as_json else "",
            flush=True,
        )
        said += _turn(line, text)


def _ask(label: str) -> str:
    try:
        return input(label).strip()
    except EOFError:
        return ""


def _turn(line: str, text: str) -> Sequence[dict[str, str]]:
    return ({"role": "user", "content": line}, {"role": "assistant", "content": text.strip()})
