"""The commands, put together."""

from __future__ import annotations

from typing import Annotated

import typer

from phi_scaffold import __version__
from phi_scaffold.cli import chat, doctor, evaluate, fetch, generate, models, new, run, status, validate

# rich's help costs more time than all the rest of a start: plain help it is.
app = typer.Typer(
    name="phi-scaffold",
    help="Your own small language model, on one road: new → setup → run → chat.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog="Exit codes: 0 done, 1 the work failed, 2 usage, 3 invalid config, 4 invalid data, 5 missing dependency or device, "
    "6 conflict, 7 network or hub, 8 not enough memory or disk, 130 interrupted.",
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"phi-scaffold {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


for module in (new, fetch, run, status, evaluate, chat, generate, models, validate, doctor):
    name = module.__name__.rpartition(".")[2]
    app.command(name)(getattr(module, name))
