"""phi-scaffold generate"""

from __future__ import annotations

import json
from typing import Annotated

import typer

from phi_scaffold.cli.options import (
    ConfigFile,
    Debug,
    Json,
    MaxNewTokens,
    ProjectFolder,
    Quiet,
    TaskName,
    Temperature,
    TrustRemoteCode,
    Which,
    open_project,
)


def generate(
    prompt: Annotated[
        str, typer.Option(help='What is asked. For a template with several columns, JSON: {"column": "text", …}')
    ],
    model: Which = None,
    raw: Annotated[
        bool, typer.Option(help="Give the prompt to the model as it is, without the template it was trained with.")
    ] = False,
    max_new_tokens: MaxNewTokens = 256,
    temperature: Temperature = 0.0,
    seed: Annotated[int | None, typer.Option(help="Makes a drawn answer repeatable.")] = None,
    trust_remote_code: TrustRemoteCode = False,
    task_name: TaskName = None,
    project_folder: ProjectFolder = None,
    config: ConfigFile = None,
    as_json: Json = False,
    quiet: Quiet = False,  # noqa: ARG001
    debug: Debug = False,  # noqa: ARG001
) -> None:
    """Ask a model of the project once.

    Example: phi-scaffold generate --prompt "What a day!" --model onnx
    """
    from phi_runtime.inference.generator import Sampling
    from phi_runtime.inference.session import open_session
    from phi_runtime.workflow.overrides import Overrides
    from phi_scaffold.environment import use_project_environment

    project = open_project(project_folder, config, task_name)
    use_project_environment(project)
    session = open_session(project, model, Overrides(trust_remote_code=trust_remote_code))
    text = prompt if raw else session.render(prompt)
    pieces = []
    for piece in session.generator.stream(text, Sampling(max_new_tokens, temperature, seed=seed)):
        pieces.append(piece)
        if not as_json:
            print(piece, end="", flush=True)
    print(json.dumps({"model": session.name, "prompt": text, "answer": "".join(pieces)}) if as_json else "")
