"""The command `phi-scaffold generate`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from phi_runtime.core.errors import PhiError, UsageError
from phi_scaffold.chat.reader import accept_wrong_bytes, check_text
from phi_scaffold.cli.failure import print_failure
from phi_scaffold.cli.options import MODEL, SAMPLING, Flags, accepts
from phi_scaffold.show.terminal import SafeText

if TYPE_CHECKING:
    from phi_runtime.inference.generator import Guide, SamplingParams
    from phi_runtime.pipeline.session import Session


@accepts(*SAMPLING, *MODEL)
def generate(
    flags: Flags,
    prompt: Annotated[
        str | None,
        typer.Argument(
            help="Prompt; for a template with several columns, JSON: "
            '{"column": "text", …}. Without it, each line of stdin is a prompt.'
        ),
    ] = None,
    prompt_option: Annotated[str | None, typer.Option("--prompt", metavar="PROMPT", help="The same as PROMPT.")] = None,
    raw: Annotated[bool, typer.Option(help="Pass the prompt unchanged, without the template of the training.")] = False,
    json_schema: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Constrain the answer to JSON of this schema (ONNX models).")
    ] = None,
    regex: Annotated[
        str | None, typer.Option(help="Constrain the answer to this regular expression (ONNX models).")
    ] = None,
) -> None:
    """Answer a prompt, or each line of a file, with a model of the project.

    Example: phi-scaffold generate "What a day!" --model onnx
    """
    from phi_scaffold.cli.chat import model_label

    guide = _guide(json_schema, regex)
    if prompt is not None and prompt_option is not None:
        raise UsageError("there are two prompts: PROMPT and --prompt", fix="remove one of them")
    prompt = prompt_option if prompt is None else prompt
    if (prompt is None and sys.stdin.isatty()) or (prompt is not None and not prompt.strip() and not raw):
        raise UsageError("there is no prompt", fix='add it: phi-scaffold generate "…", or pipe prompts, one a line')
    project = flags.enter_project()
    session, sampling = flags.open_session(project), flags.sampling(guide)
    label = "" if flags.quiet or flags.as_json else model_label(session, project)
    if prompt is not None:
        _answer(session, prompt, sampling, flags, label, raw=raw)
        return
    accept_wrong_bytes()
    exit_code = 0
    for line in sys.stdin:
        if text := line.strip():
            try:
                _answer(session, text, sampling, flags, label, raw=raw)
                label = ""  # once
            except PhiError as e:
                print_failure(e, flags.as_json)
                exit_code = exit_code or e.exit_code
    raise typer.Exit(exit_code)


def _answer(session: Session, prompt: str, sampling: SamplingParams, flags: Flags, label: str, *, raw: bool) -> None:
    check_text(prompt)
    text = prompt if raw else session.render(prompt)
    answer = session.generator.answer(text, sampling if raw else session.with_stop_text(sampling), session.adapter)
    if label:
        print(label, file=sys.stderr)
    safe = SafeText() if sys.stdout.isatty() else None
    pieces = []
    for piece in answer:
        pieces.append(piece.text)
        if not flags.as_json:
            print(safe.push(piece.text) if safe else piece.text, end="", flush=True)
    if flags.as_json:
        facts = {"model": session.name, "adapter": session.adapter, "prompt": text, "answer": "".join(pieces)}
        print(json.dumps({**facts, "finish_reason": answer.finish, **vars(answer.usage)}), flush=True)
        return
    print(safe.flush() if safe else "", flush=True)
    if answer.finish == "length" and not flags.quiet:
        print(f"the answer is cut at {answer.usage.completion_tokens} tokens (--max-new-tokens)", file=sys.stderr)


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
