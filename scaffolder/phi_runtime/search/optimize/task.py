"""The messages to a process that works on candidates."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from phi_runtime.config.overrides import Overrides
from phi_runtime.core.project import ProjectFolder

ONNX = "onnx"  # the folder of a candidate's model


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

    def as_dict(self) -> dict[str, Any]:
        return {
            "project": self.project.as_dict(),
            "overrides": self.overrides.as_dict(),
            "stage": self.stage,
            "training": self.training,
            "tokens": self.tokens,
        }

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> CandidateSettings:
        project, overrides = ProjectFolder.from_dict(value["project"]), Overrides.from_dict(value["overrides"])
        return cls(project, overrides, value["stage"], value["training"], value["tokens"])


@dataclass(frozen=True)
class CandidateTask:
    """One action: build the model with `overrides` in `folder`/onnx, measure `model`, or measure the source model."""

    action: Literal["build", "measure", "source"]
    name: str
    overrides: Overrides
    folder: Path
    model: Path | None = None

    def as_dict(self) -> dict[str, Any]:
        return {
            "action": self.action,
            "name": self.name,
            "overrides": self.overrides.as_dict(),
            "folder": str(self.folder),
            "model": str(self.model) if self.model else None,
        }

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> CandidateTask:
        overrides, model = Overrides.from_dict(value["overrides"]), value["model"]
        return cls(value["action"], value["name"], overrides, Path(value["folder"]), Path(model) if model else None)
