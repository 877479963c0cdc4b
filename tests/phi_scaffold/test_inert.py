"""Escape sequences from data, keys and names are shown, on a terminal and in a pipe."""

from __future__ import annotations

import io
import json
import sys

import pytest

from phi_scaffold.show.inert import InertStream, inert
from phi_scaffold.show.terminal import console
from tests.conftest import Cli, MakeProject, edit_config

TITLE, CLEAR = "\x1b]0;owned\x07", "\x1b[2J\x1b[1;1H"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (TITLE, r"\x1b]0;owned\x07"),
        (CLEAR, r"\x1b[2J\x1b[1;1H"),
        ("a\rb\r\n\tc", "a\\x0db\r\n\tc"),
        ("\x9b2J", r"\u009b2J"),
        ("nimda\u202e", r"nimda\u202e"),
        ("Größe 猫 😀", "Größe 猫 😀"),
    ],
)
def test_control_characters_are_shown_by_their_code(text: str, shown: str) -> None:
    assert inert(text) == shown


def test_a_terminal_gets_the_colors_of_the_help_and_a_pipe_nothing() -> None:
    terminal, pipe = Terminal(), io.StringIO()
    for stream in (terminal, pipe):
        InertStream(stream).write(f"\x1b[1mbold\x1b[0m {CLEAR}")
    assert terminal.getvalue() == f"\x1b[1mbold\x1b[0m {inert(CLEAR)}"
    assert pipe.getvalue() == inert(f"\x1b[1mbold\x1b[0m {CLEAR}")


def test_the_console_has_its_own_colors_and_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", InertStream(terminal))
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    console().print(f"[red]{TITLE}{CLEAR}[/]")
    assert "\x1b[31m" in terminal.getvalue()
    assert TITLE not in terminal.getvalue()
    assert CLEAR not in terminal.getvalue()
    assert inert(CLEAR) in terminal.getvalue()


@pytest.mark.parametrize("command", ["validate", "data check", "data preview -n 2", "status", "run"])
def test_no_command_writes_what_data_and_keys_tell_the_terminal(
    cli: Cli, make_project: MakeProject, command: str
) -> None:
    project = make_project()
    (data,) = (project.root / "datasets").glob("*.jsonl")
    rows = [json.loads(line) for line in data.read_text().splitlines()]
    data.write_text("".join(json.dumps({k: f"{v}{TITLE}{CLEAR}" for k, v in row.items()}) + "\n" for row in rows))
    if command in ("validate", "run"):
        edit_config(project, lambda config: config["passes"].update({f"a{CLEAR}": {"type": f"LoRA{TITLE}", TITLE: 1}}))
    target = [str(project.config)] if command == "validate" else ["--project", str(project.root)]
    result = cli(*command.split(), *target)
    assert "\x1b" not in result.out + result.err
    assert "\x07" not in result.out + result.err
    if command != "status":
        assert r"\x1b" in result.out + result.err
