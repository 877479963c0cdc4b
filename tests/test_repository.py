"""Files around the code that must agree with each other."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_pre_commit_runs_the_versions_of_the_linters_that_ci_runs() -> None:
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["dependency-groups"]
    hooks = (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8")
    pins = {pin for line in re.findall(r"additional_dependencies: \[(.*)\]", hooks) for pin in line.split(", ")}
    assert pins
    assert pins <= set(groups["lint"])
