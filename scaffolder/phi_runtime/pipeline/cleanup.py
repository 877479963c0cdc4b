"""Files of a project that can be deleted, with their sizes and what is lost. Imports no ML library."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from phi_runtime.config.overrides import Overrides
from phi_runtime.config.stage_names import FETCH
from phi_runtime.core.artifacts import delete_folder
from phi_runtime.core.errors import PhiError, UsageError
from phi_runtime.core.locks import exclusive
from phi_runtime.core.project import GEN_MODEL, ProjectFolder, tasks
from phi_runtime.core.suggestions import did_you_mean
from phi_runtime.core.trust import is_trusted
from phi_runtime.models.place import base_model_path, input_adapter_path, model_folders
from phi_runtime.pipeline.artifact import work_folder, work_root
from phi_runtime.pipeline.load import load_workflow
from phi_runtime.pipeline.plan import LOCK, plan
from phi_runtime.pipeline.stage import MODEL_FOLDERS, Stage

Group = Literal[
    "unused", "stale", "base", "merged", "unfinished", "tokens", "activations", "sweep", "optimize", "seeds"
]

LOSSES: dict[Group, str] = {
    "unused": "base models that no config of the project uses",
    "stale": "unfinished work of earlier settings, which no run resumes",
    "base": "base model; downloaded again by the next run",
    "merged": "merged model; merged again for a chat with it, or for another export",
    "unfinished": "checkpoints of unfinished stages; the next run starts over",
    "tokens": "tokenized data of all tasks; made again by the next training",
    "activations": "activations of frozen layers, of all tasks; computed again by the first epoch of the next training",
    "sweep": "trials of sweeps; a stopped search starts over",
    "optimize": "measured ONNX candidates; measured again by the next `optimize`",
    "seeds": "trainings with other seeds, of `evaluate --seeds`",
}
WITHOUT_LOSS: tuple[Group, ...] = ("unused", "stale")
_SHARED: tuple[Group, ...] = ("unused", "base", "tokens", "activations")
"""Groups that all tasks of a project use."""
_FOLDERS: dict[Group, str] = {
    "sweep": "sweep",
    "optimize": "optimize*",
    "seeds": "seeds",
}


@dataclass(frozen=True)
class Removable:
    """A folder that can be deleted; `group` says what is lost."""

    group: Group
    path: Path
    size_bytes: int


def removable(project: ProjectFolder, overrides: Overrides | None = None) -> list[Removable]:
    """Return what can be deleted of model-cache/ and gen-model/, in the order of `LOSSES`. Never an adapter or ONNX model.

    Raises:
        ConfigError: The config is not valid, so that it is not known what its stages need.
    """
    workflow = load_workflow(project.config, overrides)
    stages = plan(workflow, project)
    found = [
        *_unused_models(project),
        *_work(project, stages),
        *_not_needed(project, stages),
        ("tokens", project.token_cache),
        ("activations", project.activation_cache),
        *((group, path) for group, pattern in _FOLDERS.items() for path in sorted(project.gen_model.glob(pattern))),
    ]
    order = list(LOSSES)
    if not is_trusted(project.root):  # its links may lead to folders of the user's
        root = project.root.resolve()
        found = [(group, path) for group, path in found if path.parent.resolve().is_relative_to(root)]
    parts = [Removable(group, path, _size(path)) for group, path in found if path.is_dir() or path.is_symlink()]
    return sorted(parts, key=lambda part: order.index(part.group))


def remove(project: ProjectFolder, parts: Sequence[Removable]) -> None:
    """Delete `parts`. What is deleted is complete or absent at any time; links are deleted, not what they lead to.

    Raises:
        Conflict: A run of the task is active, or one of any task if `parts` are shared.
    """
    folders = {project.gen_model}
    if any(part.group in _SHARED for part in parts):
        outputs = project.root / GEN_MODEL
        folders |= {outputs, *(outputs / name for name in tasks(project))}
    with ExitStack() as locks:
        for folder in sorted(folders):
            locks.enter_context(exclusive(folder / LOCK))
        locks.enter_context(exclusive(project.fetch_lock))
        for part in parts:
            if part.path.is_symlink():
                part.path.unlink()
            else:
                delete_folder(part.path)


def groups(names: Collection[str]) -> list[Group]:
    """Return the groups with these names. Raises UsageError for another name."""
    for name in names:
        if name not in LOSSES:
            raise UsageError(
                f"unknown name `{name}`{did_you_mean(name, LOSSES)}", fix=f"choose from {', '.join(LOSSES)}"
            )
    return [group for group in LOSSES if group in names]


def _unused_models(project: ProjectFolder) -> Iterator[tuple[Group, Path]]:
    used: set[Path] = set()
    try:
        for config in _configs(project):
            model = load_workflow(config).input_model
            task = ProjectFolder(project.root, config)
            used |= {path for path in (base_model_path(model, task), input_adapter_path(model, task)) if path}
    except PhiError:  # an unreadable config may use any of them
        return
    for folder in model_folders(project.model_cache):
        if not any(model == folder or folder in model.parents for model in used):
            yield "unused", folder


def _configs(project: ProjectFolder) -> list[Path]:
    folder = project.config.parent
    return sorted(
        {project.config, *(path for path in folder.glob("*olive-config*") if path.suffix in (".json", ".yaml"))}
    )


def _work(project: ProjectFolder, stages: Sequence[Stage]) -> Iterator[tuple[Group, Path]]:
    current = {work_folder(project, stage) for stage in stages if stage.key}
    folder = work_root(project)
    for path in sorted(folder.iterdir() if folder.is_dir() else ()):
        yield "unfinished" if path in current else "stale", path


def _not_needed(project: ProjectFolder, stages: Sequence[Stage]) -> Iterator[tuple[Group, Path]]:
    """Return the base and the merged models whose later stages are all up to date."""
    states = {stage.name: stage.state for stage in stages}
    for stage in stages:
        later = [other.name for other in stages if stage.name in other.after]
        if not later or any(states[name] not in ("cached", "deleted") for name in later):
            continue
        if stage.name == FETCH and stage.target.is_relative_to(project.model_cache):
            yield "base", stage.target
        elif stage.name != FETCH and stage.target.name.partition("-")[0] == MODEL_FOLDERS["hf"]:
            yield "merged", stage.target


def _size(path: Path) -> int:
    if path.is_symlink():
        return 0
    return sum(file.lstat().st_size for file in path.rglob("*") if file.is_file() and not file.is_symlink())
