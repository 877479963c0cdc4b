"""Output of the diagnosis of a run: each problem with its evidence and the setting to change."""

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
    """Print the training problems in the record of a run."""
    from phi_runtime.training.diagnosis import read_diagnoses

    _print(read_diagnoses(run_folder))


def of_results(evaluation: dict[str, Any]) -> None:
    """Print the problems that the scores of each training pass show."""
    from phi_runtime.training.diagnosis import diagnose_results

    _print(
        (training["name"], diagnosis)
        for training in evaluation["trainings"]
        for diagnosis in diagnose_results(training)
    )


def _print(diagnoses: Iterable[tuple[str, Diagnosis]]) -> None:
    out = console()
    width = out.width if out.is_terminal else sys.maxsize
    for stage, diagnosis in diagnoses:
        out.print(f"[yellow]![/] {stage}: {diagnosis.problem}", soft_wrap=True)
        for text in (diagnosis.evidence, f"try {diagnosis.advice}"):
            lines = textwrap.fill(text, width, initial_indent="    ", subsequent_indent="    ")
            out.print(lines, markup=False, soft_wrap=True)
