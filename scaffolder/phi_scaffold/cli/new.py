"""The command `phi-scaffold new`."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from phi_runtime.core.errors import ConfigError, Interrupted, UsageError
from phi_runtime.core.project import CONFIG
from phi_scaffold.cli import completion
from phi_scaffold.cli.options import OUTPUT, Flags, accepts

if TYPE_CHECKING:
    from phi_runtime.config.diagnostics import Finding
    from phi_scaffold.new.answers import Answers
    from phi_scaffold.new.existing import ExistingConfig


@accepts(*OUTPUT)
def new(
    flags: Flags,
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME", help="Name of the project: a new folder here, or a path to one.", show_default=False
        ),
    ],
    model: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|FOLDER",
            help="Base model: a name of `phi-scaffold models`, an id or address of the Hugging Face Hub, or a model folder.",
            autocompletion=completion.model_ids,
        ),
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(
            metavar="TASK",
            help="classification, chat, question-answering, summarization, extraction or generation; default: from the data.",
            autocompletion=completion.tasks,
        ),
    ] = None,
    method: Annotated[
        str | None, typer.Option(metavar="METHOD", help="lora, qlora or full.", autocompletion=completion.methods)
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(metavar="TARGET", help="cpu, cuda, directml or azureml.", autocompletion=completion.targets),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|FOLDER|OWNER/NAME[:SPLIT]",
            help="Your data: a file, folder or pattern (.jsonl, .json, .csv, .tsv, .xlsx, .parquet, .txt, or compressed), "
            "or a data set of the Hugging Face Hub; default: sample data.",
        ),
    ] = None,
    sep: Annotated[
        str | None, typer.Option(help="Separator of the fields of a CSV file, `\\t` for tabs; default: detected.")
    ] = None,
    encoding: Annotated[
        str | None, typer.Option(help="Encoding of the data, such as cp1251 or gbk; default: detected.")
    ] = None,
    header: Annotated[
        bool | None,
        typer.Option("--header/--no-header", help="The first row of a table has the column names; default: detected."),
    ] = None,
    sheet: Annotated[str | None, typer.Option(help="Sheet of a workbook; default: the first.")] = None,
    field: Annotated[
        str | None, typer.Option(help="Key of a JSON object that holds the rows; default: detected.")
    ] = None,
    columns: Annotated[
        str | None,
        typer.Option(help="Columns of the data, the answer last: question,context,reply. Quote a comma: '\"a, b\",c'."),
    ] = None,
    prompt_template: Annotated[
        str | None, typer.Option(help="plain, chat (the format of the model), or a text with {column} placeholders.")
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option(
            metavar="PRECISION",
            help="Weights of the ONNX model: int4, int8, fp16, bf16 or fp32.",
            autocompletion=completion.precisions,
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            help="Existing config of Olive or AI Toolkit, of any version: create the project around it and copy its data."
        ),
    ] = None,
    data_file: Annotated[
        Path | None,
        typer.Option(
            "--from", "--data-file", help="Read answers from a project's .copier-answers.yml, or from a JSON file."
        ),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Use defaults instead of prompting.")] = False,
    dry_run: Annotated[bool, typer.Option(help="Show the files; write nothing.")] = False,
    force: Annotated[
        bool, typer.Option(help="Accept a folder that is not empty; files in the way are renamed to *.bak.")
    ] = False,
    git: Annotated[bool, typer.Option("--git/--no-git", help="Create a git repository.")] = True,
    open_editor: Annotated[bool, typer.Option("--open", help="Open the project in VS Code.")] = False,
) -> None:
    """Create a project: data, config, setup and inference scripts.

    Example: phi-scaffold new mood --data reviews.csv --yes
    """
    from phi_scaffold.new import generate
    from phi_scaffold.new.answers import check_name, command_line
    from phi_scaffold.new.base_models import note_on_family
    from phi_scaffold.new.questions import answers_from, read_answers
    from phi_scaffold.show import new as show_new
    from phi_scaffold.show.findings import not_valid_yet, print_findings

    folder = Path(name).expanduser()
    check_name(folder.absolute())
    settings: dict[str, Any] = read_answers(data_file) if data_file else {}
    values = {
        "model": model,
        "task": task,
        "method": method,
        "target": target,
        "precision": precision,
        "data": data,
        "columns": columns,
        "prompt_template": prompt_template,
        "sep": sep,
        "encoding": encoding,
        "header": header,
        "sheet": sheet,
        "field": field,
    }
    settings |= {key: value for key, value in values.items() if value is not None}
    existing = _existing(config, settings) if config else None
    interactive = not (yes or flags.as_json) and sys.stdin.isatty() and sys.stderr.isatty()
    if existing:
        answers = existing.answers
    elif interactive:
        answers = _from_wizard(settings, folder)
    else:
        answers = answers_from(settings)
    project = generate.new(folder, answers, existing=existing, force=force, dry_run=dry_run)
    if note := note_on_family(str(settings.get("model") or ""), answers.model):
        project = replace(project, notes=(note, *project.notes))
    repository = git and not dry_run and generate.init_git(project.folder)
    if open_editor and not dry_run:
        _open_in_vs_code(project.folder)
    command = command_line(folder, answers, config)
    findings = _check(project.folder, existing) if existing and not dry_run else []
    errors = [f for f in findings if f.severity == "error"]
    if flags.as_json:
        facts = {
            "folder": str(project.folder),
            "files": project.files,
            "notes": project.notes,
            "backed_up": project.backed_up,
            "written": not dry_run,
            "git": repository,
            "command": command,
            "findings": [f.as_dict() for f in findings],
        }
        print(json.dumps(facts))
    elif dry_run:
        show_new.planned(folder, project)
    elif not flags.quiet:
        show_new.created(folder, project, command)
    if not flags.as_json:
        if errors:
            print(not_valid_yet(errors), file=sys.stderr)
        print_findings(errors if flags.quiet else findings, stderr=True)
    if errors:
        raise typer.Exit(ConfigError.exit_code)


def _open_in_vs_code(folder: Path) -> None:
    if code := shutil.which("code"):
        subprocess.run([code, str(folder)], check=False, stdout=subprocess.DEVNULL)  # it starts the editor and ends
    else:
        print("warning: VS Code is not opened: there is no command `code` on the PATH", file=sys.stderr)


def _from_wizard(settings: Mapping[str, Any], folder: Path) -> Answers:
    from phi_scaffold.cli.wizard import Wizard

    try:
        return Wizard(settings, folder).answers()
    except KeyboardInterrupt:
        print("\nstopped, nothing is written", file=sys.stderr)
        raise typer.Exit(Interrupted.exit_code) from None


def _existing(config: Path, settings: Mapping[str, Any]) -> ExistingConfig:
    from phi_scaffold.new.existing import read_existing

    if settings:
        flag = f"--{next(iter(settings))}".replace("_", "-")
        raise UsageError(f"{flag} and --config exclude each other", fix=f"remove {flag}; change the config afterwards")
    return read_existing(config)


def _check(project: Path, existing: ExistingConfig) -> list[Finding]:
    """Return the errors of the new config, such as a missing data file, and what its translation changed."""
    from phi_runtime.pipeline.load import check_file

    findings = check_file(project / CONFIG).findings
    return [*(f for f in findings if f.severity == "error"), *existing.findings]
