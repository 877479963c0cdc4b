"""The flags that several commands share, and values with suggestions."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from phi_runtime.core.errors import MissingDependency, UsageError
from phi_runtime.core.project import Project, find_project, for_task, read_dotenv
from phi_runtime.core.suggestions import did_you_mean

if TYPE_CHECKING:
    from phi_runtime.config.overrides import Overrides

Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines on stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print the result alone, no progress.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
ProjectFolder = Annotated[
    Path | None, typer.Option("--project", help="The project's folder; default: the one around the current folder.")
]
ConfigFile = Annotated[
    Path | None, typer.Option("--config", help="The workflow config; default: fine-tuning/olive-config.json.")
]
TaskName = Annotated[
    str | None,
    typer.Option(
        "--task-name",
        metavar="NAME",
        help="Work in gen-model/NAME/, with fine-tuning/NAME.olive-config.json if it is there.",
    ),
]
Which = Annotated[
    str | None,
    typer.Option(
        "--model",
        help="base, adapter, merged, onnx, a pass's name, or a model's folder; default: the last one that is there.",
    ),
]
WhichAdapter = Annotated[
    str | None,
    typer.Option(
        "--adapter",
        metavar="NAME|FOLDER",
        help="Answer with this adapter: one that lies beside the model, or a folder of peft; none: with the bare base.",
    ),
]
MaxNewTokens = Annotated[int, typer.Option("--max-new-tokens", min=1, help="Longest answer, in tokens.")]
Temperature = Annotated[
    float, typer.Option("--temperature", min=0.0, max=5.0, help="0 always takes the likeliest token.")
]
TopP = Annotated[
    float, typer.Option("--top-p", min=0.0, max=1.0, help="Draw from the likeliest tokens that make up this share.")
]
TopK = Annotated[int, typer.Option("--top-k", min=0, help="Draw from so many of the likeliest tokens; 0: from all.")]
Seed = Annotated[int | None, typer.Option("--seed", min=0, help="Makes a drawn answer repeatable.")]
Stop = Annotated[
    list[str] | None,
    typer.Option("--stop", metavar="TEXT", help="The answer ends before this text; may be given again."),
]

On = Annotated[
    str | None,
    typer.Option(
        "--on", metavar="local", help="Run on this machine, with the device it has, whatever the config names."
    ),
]
DataFiles = Annotated[
    list[str] | None,
    typer.Option(
        "--data", metavar="[NAME=]FILE", help="Rows for a data config, instead of the file or datastore it names."
    ),
]
TrustRemoteCode = Annotated[
    bool, typer.Option("--trust-remote-code", help="Obey the config's trust_remote_code: run Python code of the model.")
]
SkipBadRows = Annotated[
    bool,
    typer.Option("--skip-bad-rows", help="Leave out rows that cannot be used, and count them, instead of stopping."),
]
RunUserScript = Annotated[
    bool, typer.Option("--run-user-script", help="Let text_formatting_func of the config's user_script run.")
]


def overrides(
    on: str | None,
    data: list[str] | None,
    trust_remote_code: bool,
    *,
    skip_bad_rows: bool = False,
    run_user_script: bool = False,
) -> Overrides:
    """What these flags say over the config. Raises UsageError."""
    from phi_runtime.config.overrides import Overrides

    if on == "azureml":
        raise MissingDependency(
            "running on Azure ML is not built yet", fix="run it on this machine: --on local --data FILE"
        )
    if on is not None and on != "local":
        raise UsageError(f"--on {on!r} is not known{did_you_mean(on, ['local'])}", fix="give --on local")
    files = {}
    for given in data or ():
        name, equals, file = given.partition("=")
        if equals and not Path(given).exists():
            files[name] = Path(file)
        else:
            files[""] = Path(given)
    return Overrides(on == "local", files, trust_remote_code, skip_bad_rows, run_user_script)


def adapter_of(given: str | None) -> tuple[str | None, dict[str, Path]]:
    """The name that --adapter gives, and the folder of it where that is what was given."""
    if given is None or not Path(given).is_dir():
        return given, {}
    name = re.sub(r"[^A-Za-z0-9_-]", "-", Path(given).resolve().name)
    return name, {name: Path(given).resolve()}


def open_project(folder: Path | None, config: Path | None = None, task: str | None = None) -> Project:
    """The project that a command works in, for the task of --task-name, its .env read."""
    if folder is not None and not folder.is_dir():
        raise UsageError(f"there is no folder {folder}", fix="check --project")
    project = find_project(folder or Path.cwd(), config)
    read_dotenv(project.root)
    return project if task is None else for_task(project, task, config_given=config is not None)


def one_of(flag: str, value: str, known: Iterable[str]) -> str:
    """`value` if it is known, whatever its case. Raises UsageError with the nearest known one."""
    known = list(known)
    for k in known:
        if k.casefold() == value.casefold():
            return k
    raise UsageError(
        f"{flag} {value!r} is not known{did_you_mean(value, known)}", fix=f"choose one of {', '.join(known)}"
    )
