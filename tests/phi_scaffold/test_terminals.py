"""What commands print on terminals of 80 and 40 columns, without colors, and in other encodings."""

from __future__ import annotations

import builtins
import io
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
from rich.cells import cell_len
from rich.console import Console

from phi_scaffold.cli.app import command_line
from phi_scaffold.cli.failure import guarded
from phi_scaffold.cli.wizard import Wizard
from phi_scaffold.show.encoding import write_nearest
from phi_scaffold.show.terminal import prose, table
from tests.conftest import MakeProject, edit_config

ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
ROWS = (
    ("finetune", "stale", "gen-model/adapter", "1 min 53 s", "passes.finetune.r was 16 and is 8; the data changed"),
    ("fetch", "cached", "model-cache/smollm2-135m", "8.9 s", ""),
)


class FakeTerminal(io.TextIOWrapper):
    """A stream that is a terminal for those who write to it."""

    def __init__(self, encoding: str) -> None:
        super().__init__(io.BytesIO(), encoding=encoding, write_through=True)
        write_nearest(self)

    def isatty(self) -> bool:
        return True

    def text(self) -> str:
        return cast(io.BytesIO, self.buffer).getvalue().decode(self.encoding)


Shown = Callable[..., str]


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> Shown:
    """Returns what a command prints on a terminal: `shown("status", columns=40, NO_COLOR="1")`."""

    def run(
        *arguments: str | Path, columns: int, encoding: str = "utf-8", term: str = "xterm-256color", no_color: str = ""
    ) -> str:
        for name, value in (("COLUMNS", str(columns)), ("TERM", term), ("NO_COLOR", no_color)):
            monkeypatch.setenv(name, value)
        stream = FakeTerminal(encoding)
        with monkeypatch.context() as patch:
            patch.setattr(sys, "argv", ["phi-scaffold", *map(str, arguments)])
            patch.setattr(sys, "stdout", stream)
            patch.setattr(sys, "stderr", stream)
            guarded(command_line())
        return stream.text()

    return run


def lines_of(output: str) -> list[str]:
    """Return the lines of what was printed, without progress that was drawn over."""
    return [line.rpartition("\r")[2] for line in ESCAPE.sub("", output).replace("\r\n", "\n").split("\n")]


def too_wide(output: str, columns: int) -> list[str]:
    """Return the lines that are wider than the terminal, but for words and commands that can be copied, and errors.

    An arrow that its encoding lacks is a column wider.
    """
    wide = [line for line in lines_of(output) if cell_len(line.rstrip().replace("->", "→")) > columns]
    return [
        line for line in wide if " " in line.strip() and not re.search(r"^  help: |^command: |error: |warning: ", line)
    ]


# -- tables and sentences --------------------------------------------------------------------------------------------------


def printed(columns: int) -> str:
    out = Console(width=columns, force_terminal=True, color_system=None, file=io.StringIO(), highlight=False)
    lines = table("!stage", "!state", "!output", "!took", "why")
    for row in ROWS:
        lines.add_row(*row)
    out.print(lines)
    return cast(io.StringIO, out.file).getvalue()


@pytest.mark.parametrize("columns", range(30, 121, 5))
def test_a_table_cuts_no_cell_at_any_width(columns: int) -> None:
    output = printed(columns)
    assert "…" not in output
    assert all(" ".join(word.split()) in " ".join(output.split()) for row in ROWS for word in row[:4])
    assert set(ROWS[0][4].split()) <= set(output.split())
    assert too_wide(output, columns) == []


def test_a_row_that_does_not_fit_is_a_block_of_its_columns() -> None:
    assert printed(40) == (
        "finetune\n  state: stale\n  output: gen-model/adapter\n  took: 1 min 53 s\n"
        "  why: passes.finetune.r was 16 and is\n    8; the data changed\n"
        "fetch\n  state: cached\n  output: model-cache/smollm2-135m\n  took: 8.9 s\n"
    )


def test_sentences_break_between_words_and_keep_their_indentation() -> None:
    out = Console(width=30, force_terminal=True, color_system=None, file=io.StringIO())
    prose("  a sentence of some words, and gen-model/a/very/long/folder/of/one/word in it", out, hanging=4)
    assert cast(io.StringIO, out.file).getvalue().split("\n") == [
        "  a sentence of some words,",
        "      and",
        "      gen-model/a/very/long/folder/of/one/word",
        "      in it",
        "",
    ]


def test_sentences_stay_on_one_line_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    prose("words " * 100)
    assert capsys.readouterr().out == "words " * 100 + "\n"


def test_an_encoding_without_a_character_gets_the_nearest_one() -> None:
    stream = FakeTerminal("ascii")
    stream.write("✓ 95.4–99.9 × ⟦joy⟧ → … ▁█ “a” 世")
    assert stream.text() == '+ 95.4-99.9 x [[joy]] -> ... _# "a" ?'
    stream = FakeTerminal("cp1252")
    stream.write("✓ 95.4–99.9 × →")
    assert stream.text() == "+ 95.4–99.9 × ->"


# -- commands --------------------------------------------------------------------------------------------------------------

COMMANDS = (
    "models",
    "models smollm2-135m",
    "doctor",
    "status",
    "data check",
    "data preview",
    "run --dry-run --no-step",
    "run --dry-run --no-step --force finetune",
    "run",
    "report",
    "runs list",
    "runs show latest",
    "runs diff latest latest",
    "runs reproduce latest --dry-run",
    "clean",
    "optimize --dry-run",
    "validate",
    "statsu",
    "run --forc x",
)
TERMINALS: dict[str, dict[str, Any]] = {
    "80 columns": {"columns": 80},
    "40 columns": {"columns": 40},
    "no color": {"columns": 40, "no_color": "1"},
    "dumb": {"columns": 80, "term": "dumb"},
    "cp1252": {"columns": 80, "encoding": "cp1252"},
    "ASCII": {"columns": 40, "encoding": "ascii", "term": "dumb"},
}
NARROWEST = {"40 columns", "ASCII"}  # what fails on another terminal mostly fails on these


@pytest.mark.parametrize(
    "terminal",
    [pytest.param(name, marks=() if name in NARROWEST else pytest.mark.slow) for name in TERMINALS],
)
@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_prints_whole_lines_on_every_terminal(
    shown: Shown, trained_project: MakeProject, monkeypatch: pytest.MonkeyPatch, command: str, terminal: str
) -> None:
    monkeypatch.chdir(trained_project().root)
    kind = TERMINALS[terminal]
    output = shown(*command.split(), **kind)
    assert too_wide(output, kind["columns"]) == []
    assert "Traceback" not in output
    assert "?" not in re.sub(r"did you mean `[a-z-]+`\?", "", ESCAPE.sub("", output))
    assert "bug in phi-scaffold" not in output
    if "term" in kind:
        assert "\x1b" not in output
    if "no_color" in kind:
        assert re.findall(r"\x1b\[[0-9;]*m", output) == []  # the cursor may move


def test_a_preview_without_colors_marks_what_is_trained(shown: Shown, trained_project: MakeProject) -> None:
    preview = shown("data", "preview", "--project", trained_project().root, columns=80, no_color="1")
    assert "⟦" in preview


def test_faults_of_a_config_are_one_line_each_for_editors(shown: Shown, make_project: MakeProject) -> None:
    project = make_project()
    edit_config(project, lambda config: config["passes"]["finetune"].update(alhpa=1))
    output = shown("validate", "--project", project.root, columns=40, no_color="1")
    assert re.search(r"olive-config\.json:\d+:\d+: error: unknown key `alhpa` - did you mean `alpha`\? ", output)


@pytest.mark.parametrize("columns", [40, 80])
def test_the_questions_of_new_say_which_models_fit_the_machine(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, columns: int
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", str(columns))
    stream = FakeTerminal("utf-8")
    questions: list[str] = []
    typed = iter(["", "9", "", "phi3", ""])
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", stream)
        patch.setattr(sys, "stdout", stream)
        patch.setattr(builtins, "input", lambda question: questions.append(question) or next(typed, ""))
        Wizard({}, Path("mood")).answers()
    assert too_wide(stream.text(), columns) == []
    assert max(map(len, questions)) < columns
    assert "smollm2-135m" in stream.text()
    assert "✓" in stream.text()
    assert ("Llama 3.2 (gated)" in stream.text()) is (columns == 80)
