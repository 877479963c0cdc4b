"""The messages to a process that works on candidates."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from phi_runtime.config.overrides import Overrides
from phi_runtime.core.project import ProjectFolder

ONNX, WORK = "onnx", ".work"  # the folders of a candidate's model and of its build


@dataclass(frozen=True)
class CandidateSettings:
    """Settings shared by all candidates.

    Attributes:
        overrides: The values that set the target in the config.
        stage: The ModelBuilder pass.
        training: The pass whose test rows are used; None if there are none.
        tokens: The context length at which memory is measured.
    """

    project: ProjectFolder
    overrides: Overrides
    stage: str
    training: str | None
    tokens: int


@dataclass(frozen=True)
class CandidateTask:
    """One action: build the model with `overrides` in `folder`/onnx, measure `model`, or measure the source model."""

    action: Literal["build", "measure", "source"]
    name: str
    overrides: Overrides
    folder: Path
    model: Path | None = None
