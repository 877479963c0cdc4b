"""Files around the code that must agree with each other."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def test_pre_commit_runs_the_versions_of_the_linters_that_ci_runs() -> None:
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["dependency-groups"]
    hooks = (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8")
    pins = {pin for line in re.findall(r"additional_dependencies: \[(.*)\]", hooks) for pin in line.split(", ")}
    assert pins
    assert pins <= set(groups["lint"])


def test_the_docs_have_the_commands_of_the_makefile(tmp_path: Path) -> None:
    if not (make := shutil.which("make")):
        pytest.skip("needs make")
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / "template" / "setup").mkdir(parents=True)
    command = [make, "-n", "--no-print-directory", "-f", ROOT / "Makefile", "demo", "test"]
    printed = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True)
    without = r'^(test -d \S+ \|\| |PYTHON="[^"]*" |touch .*)|--quiet |--disable-pip-version-check '
    made = {re.sub(without, "", line) for line in printed.stdout.splitlines()} - {""}
    section = (ROOT / "docs" / "install.md").read_text(encoding="utf-8").partition("## Without make")[2]
    documented = {
        line.strip().partition("  #")[0].strip()
        for line in section.partition("\n## ")[0].splitlines()
        if line[:4] == "    "
    }
    assert {line for line in documented if not line.startswith("#")} == made


def test_the_readme_names_targets_of_the_makefile() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = set(re.findall(r"\bmake ([a-z-]+)\b", (ROOT / "README.md").read_text(encoding="utf-8")))
    assert {"demo", "test"} <= named <= targets
