"""The command `phi-scaffold generate`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from phi_runtime.core.errors import UsageError
from phi_scaffold.cli.options import MODEL, SAMPLING, Flags, accepts

if TYPE_CHECKING:
    from phi_runtime.inference.generator import Guide


@accepts(*SAMPLING, *MODEL)
def generate(
    flags: Flags,
    prompt: Annotated[
        str, typer.Option(help='Prompt. For a template with several columns, JSON: {"column": "text", …}')
    ],
    raw: Annotated[bool, typer.Option(help="Pass the prompt unchanged, without the template of the training.")] = False,
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
    from phi_scaffold.cli.chat import model_label

    guide = _guide(json_schema, regex)
    project = flags.enter_project()
    session, sampling = flags.open_session(project), flags.sampling(guide)
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
