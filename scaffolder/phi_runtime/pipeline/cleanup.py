"""Files of a project that can be deleted, with their sizes and what is lost. Imports no ML library."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from phi_runtime.config.overrides import Overrides
from phi_runtime.config.parse import WORKFLOW_KEYS
from phi_runtime.config.reading.source import MOST_BYTES, is_yaml, read_source
from phi_runtime.config.stage_names import FETCH
from phi_runtime.core.artifacts import current_content, delete_folder, read_manifest
from phi_runtime.core.errors import PhiError, UsageError
from phi_runtime.core.locks import exclusive, exclusive_tasks
from phi_runtime.core.project import ProjectFolder
from phi_runtime.core.suggestions import did_you_mean
from phi_runtime.core.trust import is_trusted
from phi_runtime.models.place import base_model_path, input_adapter_path, model_folders
from phi_runtime.pipeline.artifact import work_folder, work_folders, work_root
from phi_runtime.pipeline.load import load_workflow
from phi_runtime.pipeline.plan import plan
from phi_runtime.pipeline.stage import Stage


@dataclass(frozen=True)
class Group:
    """Folders that are deleted together.

    Attributes:
        lost: What is lost.
        is_free: Deleted unless other groups are named, since nothing that is in use is lost.
        is_shared: All tasks of the project use it.
    """

    lost: str
    is_free: bool = False
    is_shared: bool = False


GROUPS = {
    "unused": Group("base models that no config of the project uses", is_free=True, is_shared=True),
    "stale": Group("unfinished work of earlier settings, which no run resumes", is_free=True),
    "base": Group("base model; downloaded again by the next run", is_shared=True),
    "merged": Group("merged model; merged again for a chat with it, or for another export"),
    "unfinished": Group("checkpoints of unfinished stages; the next run starts over"),
    "tokens": Group("tokenized data of all tasks; made again by the next training", is_shared=True),
    "activations": Group(
        "activations of frozen layers, of all tasks; computed again by the first epoch of the next training",
        is_shared=True,
    ),
    "sweep": Group("trials of sweeps; a stopped search starts over"),
    "optimize": Group("measured ONNX candidates; measured again by the next `optimize`"),
    "seeds": Group("trainings with other seeds, of `evaluate --seeds`"),
}
_FOLDERS = ("sweep", "optimize", "seeds")
"""Groups that are folders of gen-model/ with this name, or with it and that of a pass."""
_MODEL_KEY = re.compile(rb"model_(path|name)")
_LEFT = re.compile(r"\.(deleted-.+|.+\.(partial|old))")  # names of what a download or a deletion left in model-cache/


@dataclass(frozen=True)
class Removable:
    """A folder that can be deleted; `group` is the name of its group."""

    group: str
    path: Path
    size_bytes: int


def removable(project: ProjectFolder, overrides: Overrides) -> list[Removable]:
    """Return what can be deleted of model-cache/ and gen-model/, in the order of `GROUPS`.

    Never what only a training or the user can bring back: neither an adapter nor a fine-tuned or ONNX model, nor a base
    model that was not downloaded.

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
        *((name, path) for name in _FOLDERS for path in _named(project.gen_model, name)),
    ]
    order = list(GROUPS)
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
    is_shared = any(GROUPS[part.group].is_shared for part in parts)
    with exclusive_tasks(project) if is_shared else exclusive(project.run_lock), exclusive(project.fetch_lock):
        for part in parts:
            if part.path.is_symlink():
                part.path.unlink()
            else:
                delete_folder(part.path)


def check_names(names: Collection[str]) -> None:
    """Raise UsageError for a name that is not in `GROUPS`."""
    for name in names:
        if name not in GROUPS:
            raise UsageError(
                f"unknown name `{name}`{did_you_mean(name, GROUPS)}", fix=f"choose from {', '.join(GROUPS)}"
            )


def _named(outputs: Path, name: str) -> list[Path]:
    return sorted([*outputs.glob(name), *outputs.glob(f"{name}-*")])


def _unused_models(project: ProjectFolder) -> Iterator[tuple[str, Path]]:
    used: set[Path] = set()
    try:
        for config in _configs(project):
            model = load_workflow(config).input_model
            task = ProjectFolder(project.root, config)
            used |= {path for path in (base_model_path(model, task), input_adapter_path(model, task)) if path}
    except (OSError, PhiError):  # an unreadable config may use any of them
        return
    for folder in model_folders(project.model_cache):
        if not any(model == folder or folder in model.parents for model in used) and _is_replaceable(folder):
            yield "unused", folder


def _configs(project: ProjectFolder) -> Iterator[Path]:
    """Yield the config, and the files next to it that `--config` accepts, which name a model: data next to it does not.

    Raises ConfigError or OSError for one that cannot be read.
    """
    yield project.config
    for path in sorted(project.config.parent.iterdir()):
        if not path.is_file() or not (path.suffix.lower() in (".json", ".jsonc") or is_yaml(path)):
            continue
        if path.stat().st_size <= MOST_BYTES and _MODEL_KEY.search(path.read_bytes()):
            value = read_source(path).value
            if isinstance(value, dict) and value.keys() & WORKFLOW_KEYS:
                yield path


def _is_replaceable(folder: Path) -> bool:
    """Return True for a model that was downloaded and not changed since, for what a download left, and for a link."""
    if folder.is_symlink() or _LEFT.fullmatch(folder.name):
        return True
    manifest = read_manifest(folder)
    return manifest is not None and "source" in manifest.facts and current_content(folder, manifest) == manifest.content


def _work(project: ProjectFolder, stages: Sequence[Stage]) -> Iterator[tuple[str, Path]]:
    resumed: set[Path] = set()
    for stage in stages:  # without a key, its inputs may become those of any of its work again
        resumed.update([work_folder(project, stage)] if stage.key else work_folders(project, stage.name))
    folder = work_root(project)
    for path in sorted(folder.iterdir() if folder.is_dir() else ()):
        yield "unfinished" if path in resumed else "stale", path


def _not_needed(project: ProjectFolder, stages: Sequence[Stage]) -> Iterator[tuple[str, Path]]:
    """Return the base and the merged models whose later stages are all up to date, and which can be built again."""
    states = {stage.name: stage.state for stage in stages}
    for stage in stages:
        later = [other.name for other in stages if stage.name in other.after]
        if not later or any(states[name] not in ("cached", "deleted") for name in later):
            continue
        if stage.name == FETCH:
            if stage.target.is_relative_to(project.model_cache) and _is_replaceable(stage.target):
                yield "base", stage.target
        elif stage.type == "MergeAdapterWeights" and all(states[name] == "cached" for name in stage.after):
            yield "merged", stage.target


def _size(path: Path) -> int:
    if path.is_symlink():
        return 0
    return sum(file.lstat().st_size for file in path.rglob("*") if file.is_file() and not file.is_symlink())
