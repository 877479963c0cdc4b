"""Draws what went wrong in a run, with what to change."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phi_scaffold.show.terminal import console

if TYPE_CHECKING:
    from phi_runtime.training.diagnosis import Diagnosis


def of_trainings(run_folder: Path) -> None:
    """The problems of the trainings that this run's record holds; nothing where there are none."""
    from phi_runtime.training.diagnosis import recorded

    _draw(recorded(run_folder))


def of_results(evaluation: dict[str, Any]) -> None:
    """What the scores say of each pass that trained something; nothing where they are good."""
    from phi_runtime.training.diagnosis import diagnose_results

    _draw((adapter["name"], one) for adapter in evaluation["trainings"] for one in diagnose_results(adapter))


def _draw(found: Iterable[tuple[str, Diagnosis]]) -> None:
    out = console()
    width = out.width if out.is_terminal else sys.maxsize
    for whose, one in found:
        out.print(f"[yellow]![/] {whose}: {one.problem}", soft_wrap=True)
        for text in (one.evidence, f"try {one.advice}"):
            lines = textwrap.fill(text, width, initial_indent="    ", subsequent_indent="    ")
            out.print(lines, markup=False, soft_wrap=True)
