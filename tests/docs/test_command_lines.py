"""Command lines in the docs: commands, arguments and flags exist, as the parser of the command line sees it."""

from __future__ import annotations

import contextlib
import functools
import io
from typing import Any

import pytest
import typer
from typer._click.exceptions import UsageError as ClickUsageError

from phi_runtime.core.errors import PhiError
from phi_scaffold.cli.app import command_line
from phi_scaffold.cli.failure import ErrorOutput
from phi_scaffold.olive.arguments import parse as parse_olive
from tests.docs.pages import PAGES, CommandLine, command_lines

LINES = [line for page in PAGES for line in command_lines(page)]


@functools.cache
def app() -> Any:
    return typer.main.get_command(command_line())


def fault(arguments: tuple[str, ...]) -> str:
    """Return the error of the parser, or ""."""
    command, name, rest = app(), "phi-scaffold", list(arguments)
    if rest[0].startswith("-"):  # --install-completion would install it
        return "" if any(rest[0] in param.opts for param in command.params) else f"no option {rest[0]}"
    context = None
    try:
        while True:
            context = command.make_context(name, list(rest), parent=context, obj=ErrorOutput())
            if not hasattr(command, "commands"):
                break
            name, command, rest = command.resolve_command(context, rest)
        if name == "olive" and "--help" not in rest and len(rest) > 1:
            parse_olive(rest)
    except typer.Exit:  # --help
        return ""
    except (ClickUsageError, PhiError) as e:
        return str(e) or type(e).__name__
    return ""


def is_template(line: CommandLine) -> bool:
    """Return True for `phi-scaffold COMMAND …`, which names no command."""
    return line.arguments[0].isupper()


def test_the_docs_have_command_lines() -> None:
    assert len({line.arguments for line in LINES}) > 80


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_command_lines_parse(page: Any) -> None:
    with contextlib.redirect_stdout(io.StringIO()):
        faults = [
            f"{line.place}: phi-scaffold {' '.join(line.arguments)}: {found}"
            for line in command_lines(page)
            if not is_template(line) and (found := fault(line.arguments))
        ]
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize(
    "arguments",
    [
        ("--vresion",),
        ("rnu",),
        ("run", "--util", "export"),
        ("data", "look"),
        ("run", "--nproc", "two"),
        ("olive", "quantize", "--lora_x", "3"),
        ("serve", "--port"),
    ],
)
def test_a_command_or_flag_that_does_not_exist_is_found(arguments: tuple[str, ...]) -> None:
    assert fault(arguments)
