"""The command line app, assembled from its commands."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Annotated

import typer

from phi_scaffold import __version__
from phi_scaffold.cli.other_names import Commands

COMMANDS = (
    "new",
    "data",
    "fetch",
    "run",
    "remote",
    "status",
    "evaluate",
    "runs",
    "report",
    "sweep",
    "optimize",
    "chat",
    "generate",
    "serve",
    "models",
    "clean",
    "update",
    "validate",
    "migrate",
    "olive",
    "schema",
    "mcp",
    "doctor",
)


def command_line(arguments: Sequence[str]) -> typer.Typer:
    """Build the app. If `arguments` name a command, only that one is imported, which saves time at every start."""
    app = typer.Typer(
        name="phi-scaffold",
        cls=Commands,
        help="Fine-tune, quantize and run your own small language model: new → setup → run → chat.",
        no_args_is_help=True,
        rich_markup_mode=None,  # rich's help takes longer than the rest of the start
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
        epilog="Exit codes: 0 done, 1 the work failed, 2 usage, 3 invalid config, 4 invalid data, 5 missing dependency or "
        "device, 6 conflict, 7 network or hub, 8 not enough memory or disk, 130 interrupted.",
    )
    app.callback()(_root)
    first = next((a for a in arguments if not a.startswith("-")), "")
    for name in [first] if first in COMMANDS else COMMANDS:
        module = import_module(f"phi_scaffold.cli.{name}")
        command = getattr(module, name)
        if isinstance(command, typer.Typer):  # a group of commands
            app.add_typer(command, name=name)
        else:
            app.command(name, context_settings=getattr(module, "CONTEXT", None))(command)
    return app


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
