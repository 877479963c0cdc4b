"""The folder of the base model. Imports no ML library, since `validate` uses it."""

from __future__ import annotations

from pathlib import Path

from phi_runtime.config.paths import resolve
from phi_runtime.config.schema import InputModel
from phi_runtime.core.hub_id import HUB_ID
from phi_runtime.core.project import ProjectFolder


def base_model_path(model: InputModel, project: ProjectFolder) -> Path:
    """Return the folder of the base model: the path in the config, or model-cache/<id> for a Hub id."""
    path = resolve(model.name, project.config).path
    if path.is_dir():
        return path
    below = model.name.removeprefix("./").removeprefix("model-cache/")  # AI Toolkit wrote paths from the project's root
    if below != model.name or HUB_ID.fullmatch(model.name) or not isinstance(model.model_path, str):
        return project.model_cache / below
    return path
