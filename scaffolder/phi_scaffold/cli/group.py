"""A group of commands whose help shows values in words and whole sentences."""

from __future__ import annotations

import re
from typing import Any

from typer.core import TyperGroup

from phi_runtime.core.errors import UsageError
from phi_runtime.core.suggestions import did_you_mean
from phi_scaffold.cli.help_page import HelpContext

_METAVARS = {"str": "TEXT", "int": "N", "float": "NUMBER", "path": "PATH"}


class CommandGroup(TyperGroup):
    """A group of commands."""

    context_class = HelpContext

    def get_command(self, ctx: Any, name: str) -> Any:
        """Return the command, with the help that this module describes; None if there is no such command."""
        command = super().get_command(ctx, name)
        if command is None:
            return None
        command.context_class = HelpContext
        command.short_help = summary(command).rstrip(".")
        params: list[Any] = command.params
        for param in params:
            if param.param_type_name == "argument":
                _name_in_words(param)
                continue
            if param.default is False:
                param.secondary_opts = []  # --no-X of a flag that is off
            if param.metavar is None:
                python_type = re.sub(r"list\[(.*)]|[<>]| range", r"\1", param.display_type(ctx)).lower()
                param.metavar = _METAVARS.get(python_type)
        return command

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Return the command that `args` begin with. Raises UsageError if there is none; the message suggests the nearest."""
        if args[0] not in self.commands and not args[0].startswith("-"):
            near = did_you_mean(args[0], self.commands)
            raise UsageError(f"there is no command `{args[0]}`{near}", fix=f"{ctx.command_path} --help")
        return super().resolve_command(ctx, args)


def summary(command: Any) -> str:
    """Return the first paragraph of a command's help."""
    return " ".join((command.help or "").partition("\n\n")[0].split())


def _name_in_words(argument: Any) -> None:
    """Show an argument by its name, without the Python type that typer adds, and without braces if it is required."""
    argument.display_type_rich = lambda **_: ""
    if argument.required:
        argument._usage_display_name = lambda: str(argument.display_name_raw)
