"""phi-scaffold generate"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from phi_runtime.core.errors import UsageError
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

if TYPE_CHECKING:
    from phi_runtime.inference.generator import Guide


def generate(
    prompt: Annotated[
        str, typer.Option(help='What is asked. For a template with several columns, JSON: {"column": "text", …}')
    ],
    model: Which = None,
    adapter: WhichAdapter = None,
    raw: Annotated[
        bool, typer.Option(help="Give the prompt to the model as it is, without the template it was trained with.")
    ] = False,
    max_new_tokens: MaxNewTokens = 256,
    temperature: Temperature = 0.0,
    top_p: TopP = 1.0,
    top_k: TopK = 0,
    seed: Seed = None,
    stop: Stop = None,
    json_schema: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The answer is JSON of this schema (ONNX models).")
    ] = None,
    regex: Annotated[
        str | None, typer.Option(help="The whole answer matches this regular expression (ONNX models).")
    ] = None,
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
    from phi_runtime.config.overrides import Overrides
    from phi_runtime.inference.generator import Sampling
    from phi_runtime.pipeline.session import open_session, select_adapter
    from phi_scaffold.environment import use_project_environment

    project = open_project(project_folder, config, task_name)
    guide = _guide(json_schema, regex)
    use_project_environment(project)
    named, more = adapter_of(adapter)
    opened = open_session(project, model, Overrides(trust_remote_code=trust_remote_code), adapters=more)
    session = opened.with_adapter(select_adapter(opened.generator, named))
    sampling = Sampling(max_new_tokens, temperature, top_p, top_k, seed, tuple(stop or ()), guide)
    text = prompt if raw else session.render(prompt)
    answer = session.generator.answer(text, sampling if raw else session.with_stop_text(sampling), session.adapter)
    said = ""
    for piece in answer:
        said += piece.text
        if not as_json:
            print(piece.text, end="", flush=True)
    told = {
        "model": session.name,
        "adapter": session.adapter,
        "prompt": text,
        "answer": said,
        "finish_reason": answer.finish,
    }
    print(json.dumps({**told, **vars(answer.usage)}) if as_json else "")


def _guide(json_schema: Path | None, regex: str | None) -> Guide | None:
    from phi_runtime.inference.generator import Guide

    if json_schema and regex is not None:
        raise UsageError("an answer is guided by a schema or by a regular expression", fix="take out one of them")
    if json_schema:
        try:
            return Guide("json_schema", json_schema.read_text(encoding="utf-8"))
        except (OSError, ValueError) as e:
            raise UsageError(f"{json_schema} cannot be read: {e}", fix="check --json-schema") from None
    return None if regex is None else Guide("regex", regex)
