"""Help pages in terminals of any width, and errors of the command line in the words of all others."""

from __future__ import annotations

from typing import Any

import pytest
import typer

from phi_scaffold.cli.app import COMMANDS, command_line
from phi_scaffold.cli.group import summary
from phi_scaffold.cli.reference import commands
from tests.conftest import Cli

CALLS = ["", "data", "runs", "remote", "olive finetune", *(name for name, _ in commands())]


@pytest.mark.parametrize("call", CALLS)
def test_a_help_page_breaks_no_word_at_the_edge_of_the_terminal(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    pages = {}
    for columns in (40, 80, 200):
        monkeypatch.setenv("COLUMNS", str(columns))
        pages[columns] = cli(*call.split(), "--help").out
        assert [line for line in pages[columns].splitlines() if len(line) > columns and " " in line.strip()] == []
    words = {columns: sorted(page.split()) for columns, page in pages.items()}
    assert words[40] == words[80] == words[200]
    assert pages[40].startswith("Usage: phi-scaffold")
    assert "--no-dry-run" not in words[80]


@pytest.mark.parametrize("name", COMMANDS)
def test_the_list_of_commands_says_of_each_what_its_help_says(name: str) -> None:
    app: Any = typer.main.get_command(command_line())
    assert COMMANDS[name] == summary(app.get_command(None, name)).rstrip(".")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("statsu", "there is no command `statsu`; did you mean `status`?\n  help: phi-scaffold --help"),
        ("trian", "there is no command `trian`; did you mean `train`?\n  help: phi-scaffold run --until finetune"),
        ("runs lst", "there is no command `lst`; did you mean `list`?\n  help: phi-scaffold runs --help"),
        ("run --forc x", "there is no option `--forc`; did you mean `--force`?\n  help: phi-scaffold run --help"),
        ("run --until", "option `--until` requires an argument\n  help: phi-scaffold run --help"),
        ("chat --top-k hot", "invalid value for `--top-k`: expected a valid integer\n  help: phi-scaffold chat --help"),
        ("generate a b", "unexpected argument: `b`\n  help: phi-scaffold generate --help"),
    ],
)
def test_a_slip_in_the_command_line_is_named_with_the_nearest_word(cli: Cli, call: str, message: str) -> None:
    result = cli(*call.split())
    assert result.code == 2
    assert result.err == f"error: {message}\n"
