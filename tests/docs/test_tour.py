"""The tour: its commands run one after the other in a new folder, and print what it shows."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import Cli
from tests.docs.pages import ROOT, code

TOUR = ROOT / "docs" / "tour.md"
HEAVY = {"run", "generate"}  # without --dry-run; tests/e2e runs them


@dataclass(frozen=True)
class Step:
    """A line of the tour, with the output below it."""

    words: tuple[str, ...]
    output: tuple[str, ...]

    @property
    def is_heavy(self) -> bool:
        return self.words[0] == "phi-scaffold" and self.words[1] in HEAVY and "--dry-run" not in self.words


def steps() -> Iterator[Step]:
    for block in code(TOUR):
        if block.language == "console":
            for part in re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]:
                line, *output = part.splitlines()
                yield Step(tuple(shlex.split(line)), tuple(row for row in output if row.strip()))


def pattern(row: str) -> str:
    """Return a regular expression for a line of output; `…` is any text, blanks may differ in number."""
    return r"\s*" + r"\s+".join(re.escape(word).replace("…", ".*") for word in row.split()) + r"\s*"


def test_the_tour_does_what_it_shows(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ran = 0
    for step in steps():
        if step.words[0] == "cd":
            monkeypatch.chdir(step.words[1])
        elif step.words[0] == "sed":
            _, old, new, _ = step.words[2].split("/")
            file = Path(step.words[3])
            text = file.read_text(encoding="utf-8")
            assert text.count(old) == 1
            file.write_text(text.replace(old, new), encoding="utf-8")
        elif not step.is_heavy:
            result = cli(*step.words[1:])
            assert result.code == (3 if "is not valid" in "".join(step.output) else 0), result.err
            printed = [*result.out.splitlines(), *result.err.splitlines()]
            missing = [row for row in step.output if not any(re.fullmatch(pattern(row), line) for line in printed)]
            assert not missing, f"{' '.join(step.words)} does not print these lines of docs/tour.md"
            ran += 1
    assert ran >= 8
