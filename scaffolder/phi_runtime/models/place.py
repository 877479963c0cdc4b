"""The folders of the base model and of its adapter, and their Hub ids. Imports no ML library, since `validate` uses it."""

from __future__ import annotations

from pathlib import Path

from phi_runtime.config.paths import possible, resolve
from phi_runtime.config.schema import InputModel
from phi_runtime.core.hub_id import HUB_ID
from phi_runtime.core.project import ProjectFolder
from phi_runtime.models.embedded import EMBEDDED
from phi_runtime.models.known import known_id


def base_model_path(model: InputModel, project: ProjectFolder) -> Path:
    """Return the folder of the base model: the path in the config, or model-cache/<id> for an id of the Hub or the catalog."""
    is_id = not isinstance(model.model_path, str) or ("/" not in model.name and known_id(model.name) is not None)
    return _folder(model.name, project, is_id=is_id)


def download_id(model: InputModel, project: ProjectFolder) -> str | None:
    """Return the embedded model's name or the Hub id that the folder of the base model is downloaded from, if there is one."""
    path = base_model_path(model, project)
    name = cached_name(path, project)
    return name if name in EMBEDDED else hub_name(path, project) or known_id(name)


def input_adapter_path(model: InputModel, project: ProjectFolder) -> Path | None:
    """Return the folder of the adapter of the input model, found as that of the base model; None if it has none."""
    return _folder(model.adapter_path, project) if model.adapter_path else None


def cached_name(path: Path, project: ProjectFolder) -> str:
    """Return the name of a folder under model-cache/; "" for another folder."""
    return path.relative_to(project.model_cache).as_posix() if path.is_relative_to(project.model_cache) else ""


def hub_name(path: Path, project: ProjectFolder) -> str:
    """Return the Hub id of a folder under model-cache/; "" for another folder."""
    name = cached_name(path, project)
    return name if HUB_ID.fullmatch(name) else ""


def _folder(name: str, project: ProjectFolder, *, is_id: bool = False) -> Path:
    path = resolve(name, project.config).path
    if path.is_dir():
        return path
    below = cached_part(name)
    if below != name.rstrip("/") or HUB_ID.fullmatch(name) or is_id:
        return project.model_cache / possible(below)
    return path


def cached_part(name: str) -> str:
    """Return what follows model-cache/ in a path, from whatever folder it is written; another name as it is."""
    _, cache, below = name.replace("\\", "/").rstrip("/").rpartition("model-cache/")
    return below if cache else name.rstrip("/")


def model_folders(cache: Path) -> list[Path]:
    """Return the folders of the models in a model-cache/, `name` and `owner/name`, complete or not."""
    found = []
    for path in sorted(cache.iterdir() if cache.is_dir() else ()):
        below = sorted(path.iterdir()) if path.is_dir() and not is_model_folder(path) else [path]
        found += [folder for folder in below if folder.is_dir()]
    return found


def is_model_folder(path: Path) -> bool:
    """Return True if there is a model of transformers at `path`."""
    return (path / "config.json").is_file()
