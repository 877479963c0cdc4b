"""What a process that works on candidates is told."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from phi_runtime.config.overrides import Overrides
from phi_runtime.core.project import Project


@dataclass(frozen=True)
class Setting:
    """What all candidates have in common. `overrides` hold the values that make the config's target the wanted one; `stage` is the
    ModelBuilder pass; `training` the pass whose held-out rows are asked, None where there are none; `tokens` the context for which
    memory is measured."""

    project: Project
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
    def from_dict(cls, value: dict[str, Any]) -> Setting:
        project, overrides = Project.from_dict(value["project"]), Overrides.from_dict(value["overrides"])
        return cls(project, overrides, value["stage"], value["training"], value["tokens"])


@dataclass(frozen=True)
class Task:
    """Something to do. build: the model of the pass, with `overrides`, into `folder`/onnx. measure: the one in `model`. source: the
    full-precision model, for comparison."""

    do: Literal["build", "measure", "source"]
    name: str
    overrides: Overrides
    folder: Path
    model: Path | None = None

    def as_dict(self) -> dict[str, Any]:
        paths = {"folder": str(self.folder), "model": str(self.model) if self.model else None}
        return {"do": self.do, "name": self.name, "overrides": self.overrides.as_dict(), **paths}

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> Task:
        model = Path(value["model"]) if value["model"] else None
        return cls(value["do"], value["name"], Overrides.from_dict(value["overrides"]), Path(value["folder"]), model)
