"""The command line app, assembled from its commands."""

from __future__ import annotations

from importlib import import_module
from typing import Annotated, Any

import typer

from phi_scaffold import __version__
from phi_scaffold.cli.group import CommandGroup
from phi_scaffold.cli.other_names import Commands

COMMANDS = {  # what each does in a line, as in its help: the page of all of them imports none
    "new": "Create a project: data, config, setup and inference scripts",
    "data": "Check the data, and preview what the model will see of it",
    "fetch": "Download the base model into model-cache/",
    "run": "Fetch, fine-tune, merge, export and evaluate; skip what is cached",
    "remote": "Status, logs, cancel and download of jobs that `run --on` submitted",
    "status": "Show each stage: cached, stale (and why), failed or never run, and where its output is",
    "evaluate": "Compare base, adapter, merged and ONNX model on the test rows; run missing stages first",
    "runs": "List, show, compare and reproduce the runs of a project",
    "report": "Write the last run as one HTML page: verdict, models, losses, errors, slices, data, and how to repeat it",
    "sweep": "Search for better settings, as fine-tuning/sweep.yaml describes. A stopped search resumes where it was",
    "optimize": "Find the smallest ONNX model within the limits: build and measure candidates until one meets them",
    "chat": "Chat with a model of the project, in the format that it was trained on",
    "generate": "Answer a prompt, or each line of a file, with a model of the project",
    "serve": "Serve models of the project over the OpenAI API: /v1/chat/completions, /v1/completions, "
    "/v1/models. Ctrl-C stops it",
    "models": "List the known models: size, license, and the memory that each training method needs",
    "clean": "Show what of model-cache/ and gen-model/ can be deleted, with its size and what is lost",
    "update": "Update the generated files of a project to this version of phi-scaffold, and keep your edits",
    "validate": "Check a workflow config of any Olive version; print each problem with its place, the important ones first",
    "migrate": "Rewrite an older Olive config in the current format, and print each translation. The original "
    "is kept as *.bak",
    "olive": "Run a command line of Olive in a project at its --output_path, which is created; --dry_run only creates it",
    "schema": "Print the JSON Schema of the workflow config, of evaluation.json or of sweep.yaml",
    "mcp": "Serve the commands of a project to a coding agent: the Model Context Protocol on stdin and stdout",
    "doctor": "Check this machine and environment, and print the command that fixes each problem",
}


def command_line() -> typer.Typer:
    """Return the app; the module of a command is imported when the command is called."""
    app = typer.Typer(
        name="phi-scaffold",
        cls=_AllCommands,
        help="Fine-tune, quantize and run your own small language model: new → setup → run → chat.",
        no_args_is_help=True,
        rich_markup_mode=None,  # rich's help takes longer than the rest of the start
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
        epilog="Exit codes: 0 done, 1 the work failed, 2 usage, 3 invalid config, 4 invalid data, 5 missing dependency or "
        "device, 6 conflict, 7 network or hub, 8 not enough memory or disk, 130 interrupted.",
    )
    app.callback()(_root)
    return app


class _AllCommands(Commands):
    """The commands of `COMMANDS`."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands: dict[str, Any] = dict.fromkeys(COMMANDS)

    def get_command(self, ctx: Any, name: str) -> Any:
        """Return the command, imported now; None if there is no such command."""
        if name in COMMANDS and self.commands[name] is None:
            self.commands[name] = _imported(name)
        return super().get_command(ctx, name)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the list of commands of the help page."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


def _imported(name: str) -> Any:
    """Return a command or a group of commands from its module, which has its name."""
    module = import_module(f"phi_scaffold.cli.{name}")
    command = getattr(module, name)
    alone = typer.Typer(cls=CommandGroup, add_completion=False, rich_markup_mode=None)
    if isinstance(command, typer.Typer):
        alone.add_typer(command, name=name)
    else:
        alone.command(name, context_settings=getattr(module, "CONTEXT", None))(command)
    return typer.main.get_group(alone).commands[name]


def _print_version(value: bool) -> None:
    if value:
        typer.echo(f"phi-scaffold {__version__}")
        raise typer.Exit


def _root(
    version: Annotated[
        bool,
        typer.Option("--version", "-V", callback=_print_version, is_eager=True, help="Print the version and exit."),
    ] = False,
) -> None:
    pass
