"""The command `phi-scaffold generate`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from phi_runtime.core.errors import UsageError
from phi_scaffold.cli.options import (
    MODEL,
    AdapterName,
    Flags,
    MaxNewTokens,
    ModelName,
    Seed,
    Stop,
    Temperature,
    TopK,
    TopP,
    accepts,
    resolve_adapter,
)

if TYPE_CHECKING:
    from phi_runtime.inference.generator import Guide


@accepts(*MODEL)
def generate(
    flags: Flags,
    prompt: Annotated[
        str, typer.Option(help='Prompt. For a template with several columns, JSON: {"column": "text", …}')
    ],
    model: ModelName = None,
    adapter: AdapterName = None,
    raw: Annotated[bool, typer.Option(help="Pass the prompt unchanged, without the template of the training.")] = False,
    max_new_tokens: MaxNewTokens = 256,
    temperature: Temperature = 0.0,
    top_p: TopP = 1.0,
    top_k: TopK = 0,
    seed: Seed = None,
    stop: Stop = None,
    json_schema: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Constrain the answer to JSON of this schema (ONNX models).")
    ] = None,
    regex: Annotated[
        str | None, typer.Option(help="Constrain the answer to this regular expression (ONNX models).")
    ] = None,
) -> None:
    """Answer one prompt with a model of the project.

    Example: phi-scaffold generate --prompt "What a day!" --model onnx
    """
    from phi_runtime.inference.generator import SamplingParams
    from phi_runtime.pipeline.session import open_session
    from phi_scaffold.cli.chat import model_label

    guide = _guide(json_schema, regex)
    project = flags.enter_project()
    name, folders = resolve_adapter(adapter)
    session = open_session(project, model, flags.overrides(), adapters=folders).select_adapter(name)
    sampling = SamplingParams(max_new_tokens, temperature, top_p, top_k, seed, tuple(stop or ()), guide)
    text = prompt if raw else session.render(prompt)
    answer = session.generator.answer(text, sampling if raw else session.with_stop_text(sampling), session.adapter)
    if not (flags.quiet or flags.as_json):
        print(model_label(session, project), file=sys.stderr)
    pieces = []
    for piece in answer:
        pieces.append(piece.text)
        if not flags.as_json:
            print(piece.text, end="", flush=True)
    if not flags.as_json:
        print()
        return
    facts = {"model": session.name, "adapter": session.adapter, "prompt": text, "answer": "".join(pieces)}
    print(json.dumps({**facts, "finish_reason": answer.finish, **vars(answer.usage)}))


def _guide(json_schema: Path | None, regex: str | None) -> Guide | None:
    from phi_runtime.inference.generator import Guide

    if json_schema and regex is not None:
        raise UsageError("--json-schema and --regex exclude each other", fix="remove one of them")
    if json_schema:
        try:
            return Guide("json_schema", json_schema.read_text(encoding="utf-8"))
        except (OSError, ValueError) as e:
            raise UsageError(f"cannot read {json_schema}: {e}", fix="check --json-schema") from None
    return None if regex is None else Guide("regex", regex)
