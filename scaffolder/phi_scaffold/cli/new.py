"""phi-scaffold new"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from phi_scaffold.cli.options import Debug, Json, Quiet, one_of


def new(
    name: Annotated[
        str,
        typer.Argument(help="Name of the project: a folder that is made here, or a path to it.", show_default=False),
    ],
    model: Annotated[
        str | None, typer.Option(help="Base model: an id of `phi-scaffold models`, or OWNER/NAME on the hub.")
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(
            help="classification, chat, question-answering, summarization, extraction or generation; default: as the data look."
        ),
    ] = None,
    method: Annotated[str | None, typer.Option(help="lora, qlora or full.")] = None,
    target: Annotated[str | None, typer.Option(help="cpu, cuda or directml.")] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            help="Your own data (.jsonl, .json, .csv, .tsv, .parquet, .txt, or packed) in place of the sample."
        ),
    ] = None,
    columns: Annotated[
        str | None, typer.Option(help="Columns of the data, the answer last: question,context,reply.")
    ] = None,
    prompt_template: Annotated[
        str | None, typer.Option(help="plain, chat (the model's own), or a text with {column}s.")
    ] = None,
    precision: Annotated[
        str | None, typer.Option(help="Weights of the ONNX model: int4, int8, fp16, bf16 or fp32.")
    ] = None,
    data_file: Annotated[
        Path | None, typer.Option(help="Take answers from a JSON or .copier-answers.yml file.")
    ] = None,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Ask nothing; take the default for what is not given.")
    ] = False,
    dry_run: Annotated[bool, typer.Option(help="Show the files, write nothing.")] = False,
    force: Annotated[
        bool, typer.Option(help="Fill in a folder that is not empty; files in the way become *.bak.")
    ] = False,
    git: Annotated[bool, typer.Option("--git/--no-git", help="Make it a git repository.")] = True,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,  # noqa: ARG001
) -> None:
    """Make a project: data, config, setup and inference scripts.

    Example: phi-scaffold new mood --data reviews.csv --yes
    """
    from phi_scaffold.new import generate
    from phi_scaffold.new.questions import ask, read_answers
    from phi_scaffold.show import run as show

    folder = Path(name).expanduser()
    generate.check_name(folder.absolute())
    given: dict[str, Any] = read_answers(data_file) if data_file else {}
    flags = {
        "model": model,
        "task": task,
        "method": method,
        "target": target,
        "precision": precision,
        "data": data,
        "columns": columns,
        "prompt_template": prompt_template,
    }
    given |= {k: v for k, v in flags.items() if v is not None}
    interactive = not (yes or as_json) and sys.stdin.isatty() and sys.stderr.isatty()
    answers = ask(given, interactive=interactive, one_of=one_of)
    emitted = generate.new(folder, answers, force=force, dry_run=dry_run)
    repository = git and not dry_run and generate.init_git(emitted.folder)
    again = generate.command_line(folder, answers)
    if as_json:
        result = {
            "folder": str(emitted.folder),
            "files": emitted.files,
            "notes": emitted.notes,
            "backed_up": emitted.backed_up,
        }
        print(json.dumps({**result, "written": not dry_run, "git": repository, "command": again}))
    elif not quiet:
        show.created(folder, emitted, again, dry_run=dry_run)
