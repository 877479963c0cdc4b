"""Commands in the docs that are not of phi-scaffold: setup, make, programs and extras exist, with their flags.

The Markdown files of a new project are read, too.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from phi_scaffold.new.answers import Answers
from phi_scaffold.new.generate import new
from tests.docs.pages import OPERATORS, PAGES, ROOT, code, command_lines, words
from tests.docs.test_command_lines import fault as parser_fault

LANGUAGES = (None, "", "console", "sh", "bash")
PYTHON = re.compile(r"(?:[\w.-]*[/\\])*(?:python[\d.]*|pytest)(?:\.exe)?")
GENERATED = ("AGENTS.md",)  # from the commands themselves
KNOWN = re.compile(r"(?:^|[\s/])(?:bash|powershell|make|pipx?|uvx?|python[\d.]*|pytest)(?:\.exe)? \S")
SETUP = re.compile(r"(?:.*[/\\])?setup\.(?:sh|ps1)")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return new(tmp_path_factory.mktemp("commands") / "p", Answers("smollm2-135m")).folder


@pytest.fixture(scope="module")
def setup(project: Path) -> ModuleType:
    """The setup script of a project, as a module."""
    spec = importlib.util.spec_from_file_location("setup_of_project", project / "setup" / "setup.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def commands(text: str) -> Iterator[list[str]]:
    """Yield the words of each command in a code block or a line, without variables before it."""
    for line in text.replace("\\\n", " ").splitlines():
        plain = re.sub(r"\\(?=\w)", "/", line.removeprefix("$ "))  # paths of Windows
        if not KNOWN.search(plain) or "…" in plain:
            continue
        part: list[str] = []
        for word in [*words(plain), ";"]:
            if not OPERATORS.fullmatch(word):
                part += [] if not part and re.fullmatch(r"[A-Z_]+=\S*", word) else [word]
            elif part:
                yield part
                part = []


def fault(command: list[str], project: Path, setup: ModuleType, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return what is wrong with a command, or ""."""
    first, *rest = command
    if place := next((n for n, word in enumerate(command) if SETUP.fullmatch(word)), None):
        monkeypatch.setattr(sys, "argv", ["setup.py", *command[place + 1 :]])
        try:
            setup.parse()
        except SystemExit as e:
            return f"setup refuses its arguments ({e.code})"
    if first == "make" and rest:
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
        return "" if rest[0] in targets else f"there is no target {rest[0]}"
    # setuptools, which torch compiles with, cannot be imported in a process that has looked for the module pip
    if first in ("pip", "pipx", "uv", "uvx") or rest[:2] == ["-m", "pip"]:
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"][
            "optional-dependencies"
        ]
        named = re.findall(r"phi-scaffold\[(.+?)\]", " ".join(rest))
        return "".join(f"there is no extra {extra}" for extra in named if extra not in extras)
    if not PYTHON.fullmatch(first) or not rest:
        return ""
    if rest[0] == "-m":
        return "" if importlib.util.find_spec(rest[1]) else f"there is no module {rest[1]}"
    program = re.sub(r"^build/demo/", "", rest[0])
    folders = (ROOT, project, project / "inferences")  # chat_onnx.py is next to an exported model, too
    exists = program.startswith("-") or any((folder / program).exists() for folder in folders)
    return "" if exists else f"there is no file {program}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_of_the_docs_exist(
    page: Path, project: Path, setup: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    faults = [
        f"{block.place}: {' '.join(command)}: {found}"
        for block in code(page)
        if block.language in LANGUAGES
        for command in commands(block.text)
        if (found := fault(command, project, setup, monkeypatch))
    ]
    assert not faults, "\n".join(faults)


def test_commands_in_the_files_of_a_project_exist(
    project: Path, setup: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    pages = sorted(page for page in project.rglob("*.md") if page.name not in GENERATED)
    blocks = [block for page in pages for block in code(page) if block.language in LANGUAGES]
    found = [c for block in blocks for c in commands(block.text)]
    lines = [line for page in pages for line in command_lines(page)]
    assert "README.md" in {page.name for page in pages}
    assert (len(found) >= 3, len(lines) >= 10) == (True, True)
    assert not [c for c in found if fault(c, project, setup, monkeypatch)]
    with contextlib.redirect_stdout(io.StringIO()):
        assert not [line for line in lines if parser_fault(line.arguments)]


def test_the_docs_have_such_commands() -> None:
    found = [
        tuple(c) for page in PAGES for block in code(page) if block.language in LANGUAGES for c in commands(block.text)
    ]
    assert sum(any(SETUP.fullmatch(word) for word in command) for command in found) > 15
    assert sum(bool(PYTHON.fullmatch(command[0])) for command in found) > 10


@pytest.mark.parametrize(
    "line",
    [
        "bash setup/setup.sh --with wbe",
        "bash setup/setup.sh --dveice cpu",
        "powershell -File setup\\setup.ps1 --cuda",
        "cd mood && PYTHON=python3.12 bash setup/setup.sh --device tpu",
        "make dmeo",
        'pip install "phi-scaffold[serv]"',
        ".venv/bin/python inferences/chat.py",
        "python -m tests.nothing",
        "build/test-venv/bin/pytest tests/nothing -q",
    ],
)
def test_a_command_that_does_not_exist_is_found(
    line: str, project: Path, setup: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert any(fault(command, project, setup, monkeypatch) for command in commands(line))
