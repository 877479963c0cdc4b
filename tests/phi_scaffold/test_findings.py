"""Findings on a terminal: the line with carets, short paths, what changes the result first."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from phi_runtime.config.diagnostics import Finding
from phi_runtime.core.errors import Location
from phi_scaffold.show.excerpt import excerpt
from phi_scaffold.show.findings import print_findings
from phi_scaffold.show.paths import short_path, with_short_paths
from tests.conftest import Cli

CASES = Path(__file__).parents[1] / "phi_runtime" / "config" / "dialects"


@pytest.mark.parametrize(
    ("line", "column", "width", "shown", "carets"),
    [
        ('{"r": 8}', 2, 80, '{"r": 8}', ' ^^^'),
        ("\t\t\"r\": 8", 3, 80, '        "r": 8', "        ^^^"),
        ("a\tlora_r: 8", 3, 80, "a   lora_r: 8", "    ^^^^^^"),
        ('{"名前": "値"}', 2, 80, '{"名前": "値"}', " ^^^^^^"),
        ('{"名前": "値"}', 8, 80, '{"名前": "値"}', "         ^^^^"),
        ('{"e\u0301": 1}', 8, 80, '{"e\u0301": 1}', "      ^"),
        ('"\\"x": 1', 1, 80, '"\\"x": 1', "^^^^^"),
        ('"bad \x1b[31m": 1', 1, 80, '"bad �[31m": 1', "^^^^^^^^^^^"),
        ("passes:", 8, 80, "passes:", "       ^"),
        ('{"key": "hf_abcdefgh"}', 2, 80, '{"key": "***********"}', " ^^^^^"),
        ("0123456789" * 9, 46, 28, "…901234567890123456…", "       ^^^^^^^^^^^^"),
        (f"{'[' * 9000}12{']' * 9000}", 9001, 28, "…[[[[[[12]]]]]]]]]]…", "       ^^"),
        ('{"k": "hf_' + "a" * 9000 + '"}', 7, 28, None, None),
        ("値" * 50, 20, 28, None, None),
    ],
)  # fmt: skip
def test_the_carets_are_below_the_word(
    tmp_path: Path, line: str, column: int, width: int, shown: str | None, carets: str | None
) -> None:
    from rich.cells import cell_len

    file = tmp_path / "c.json"
    file.write_text(f"first\n{line}\nlast\n", encoding="utf-8")
    lines = excerpt(Location(file, 2, column), width)
    assert lines is not None
    text, marks = lines
    assert text.startswith("    2 | ")
    assert marks.startswith("      | ")
    assert cell_len(text) <= width
    assert cell_len(marks) <= width
    assert set(marks.strip(" |")) == {"^"}
    assert shown is None or text[8:] == shown
    assert carets is None or marks[8:] == carets


def test_of_very_many_findings_the_first_are_printed_and_the_others_counted(capsys: pytest.CaptureFixture[str]) -> None:
    print_findings([Finding("error", Location("c.json"), "unknown-key", f"k{n}", f"no key {n}") for n in range(250)])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 201
    assert "no key 199" in lines[-2]
    assert "50" in lines[-1]


def test_a_file_without_that_line_has_no_excerpt(tmp_path: Path) -> None:
    file = tmp_path / "c.json"
    file.write_bytes(b"\xff\xfe{}\n")
    assert excerpt(Location(file, 1, 1), 80) is None
    assert excerpt(Location(tmp_path / "none.json", 1, 1), 80) is None
    assert excerpt(Location(file), 80) is None


def test_a_path_is_relative_where_that_is_shorter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert short_path(tmp_path / "sub" / "c.json") == str(Path("sub", "c.json"))
    assert short_path("c.json") == "c.json"
    assert short_path("/c.json") == "/c.json"
    message = f"`{tmp_path}/rows.jsonl` is not /mnt{tmp_path}/rows.jsonl"
    assert with_short_paths(message) == f"`rows.jsonl` is not /mnt{tmp_path}/rows.jsonl"


def test_errors_show_their_line_and_a_secret_does_not(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text = '{\n"input_model": {"type": "HfModel", "model_path": "a/b",\n "load_kwargs": {"token": "hf_topsecret"}},\n'
    Path("c.json").write_text(text + '\t"pases": {}\n}\n', encoding="utf-8")
    result = cli("validate", tmp_path / "c.json")
    assert "hf_topsecret" not in result.out
    assert 'c.json:4:2: error: unknown key `pases` - did you mean `passes`? (unknown-key)\n' \
           '    4 |     "pases": {}\n      |     ^^^^^^^\n' in result.out  # fmt: skip
    assert str(tmp_path) not in result.out


def test_what_changes_the_result_comes_first_and_older_forms_are_one_line(cli: Cli) -> None:
    path = CASES / "toolkit-chain-qlora.json"
    lines = cli("validate", path).out.splitlines()
    warnings = [line for line in lines if ": warning: " in line]
    notes = [line for line in lines if ": note: " in line]
    assert "changes the result" in warnings[0]
    assert all("changes the result" not in line for line in warnings[1:])
    assert len(notes) == 1
    complete = cli("validate", path, "--json").json["findings"]
    listed = cli("validate", path, "--verbose").out.splitlines()
    assert sum(": warning: " in line for line in listed) == sum(f["severity"] == "warning" for f in complete)
    assert not any(": note: " in line for line in listed)


def test_a_narrow_terminal_shows_the_place(tmp_path: Path) -> None:
    file = tmp_path / "c.json"
    file.write_text("値" * 9, encoding="utf-8")
    for width in range(30):
        lines = excerpt(Location(file, 1, 5), width)
        assert lines is not None
        assert lines[1].endswith("^")


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_a_terminal_shows_colors(tmp_path: Path) -> None:
    import os
    import pty

    (tmp_path / "c.json").write_text('{\n\t"a": True\n}')
    master, slave = pty.openpty()
    command = [sys.executable, "-m", "phi_scaffold", "validate", "c.json"]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "80"}
    environment.pop("NO_COLOR", None)
    done = subprocess.run(command, cwd=tmp_path, stdout=slave, stderr=slave, env=environment, check=False)
    os.close(slave)
    shown = os.read(master, 4096).decode().replace("\r\n", "\n")
    os.close(master)
    assert done.returncode == 3
    assert "\x1b[1;31merror: " in shown
    plain = re.sub(r"\x1b\[[\d;]*m", "", shown)
    assert '    2 |     "a": True\n      |          ^^^^\n  help: write `true`\n' in plain
