"""The folders of an emitted project."""

from __future__ import annotations

import os
import re
import shlex
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

from phi_runtime.core.errors import Location, UsageError
from phi_runtime.core.trust import is_own

CONFIG = Path("fine-tuning/olive-config.json")
_CONFIG_FOLDERS = (CONFIG.parent.name, "finetuning")  # the second in projects of AI Toolkit
GEN_MODEL = "gen-model"
RATINGS = "ratings"
RUN_LOCK = ".run.lock"
RESERVED = (
    "adapter",
    "input_adapter",
    "merged",
    "onnx",
    "evaluation",
    "runs",
    RATINGS,
    "sweep",
    "optimize",
    "seeds",
    "olive",
    "remote",
    "mlflow",
    "trackio",
    "wandb",
)

WINDOWS_DEVICES = {"con", "prn", "aux", "nul", *(f"{d}{n}" for d in ("com", "lpt") for n in range(1, 10))}
"""Names in lower case that no file or folder can have on Windows."""


@dataclass(frozen=True)
class ProjectFolder:
    """An emitted project.

    Attributes:
        root: Folder with the six folders of the project.
        config: Workflow config of this run.
        output: Folder for all outputs of a run, with its record and its lock; None for gen-model/ itself. A named task
            (`--task-name`) and each trial of a sweep have separate ones. They share the base models in model-cache/ and
            `token_cache`, whose entries are keyed by content.
    """

    root: Path
    config: Path
    output: Path | None = None

    @property
    def model_cache(self) -> Path:
        return self.root / "model-cache"

    @property
    def gen_model(self) -> Path:
        """Folder of models, evaluation, runs and unfinished work."""
        return self.output or self.root / GEN_MODEL

    @property
    def token_cache(self) -> Path:
        """Folder of tokenized data, shared by all runs of the project."""
        return self.root / GEN_MODEL / ".data"

    @property
    def activation_cache(self) -> Path:
        """Folder of the activations of frozen layers, shared by all runs of the project."""
        return self.root / GEN_MODEL / ".activations"

    @property
    def run_lock(self) -> Path:
        """Lock file held by a run of this task, by a search and by what deletes its outputs."""
        return self.gen_model / RUN_LOCK

    @property
    def fetch_lock(self) -> Path:
        """Lock file held during downloads into model-cache/, which all runs of the project share."""
        return self.root / GEN_MODEL / ".fetch.lock"

    @property
    def runs(self) -> Path:
        return self.gen_model / "runs"

    def shown(self, path: Path) -> str:
        """Return `path` relative to the project's root, with forward slashes."""
        try:
            return path.relative_to(self.root).as_posix()
        except ValueError:
            return str(path)


def find_project(start: Path, config: Path | None = None, *, explicit: bool = False) -> ProjectFolder:
    """Return the project that contains the folder `start`, or the one that `config` belongs to.

    The search ends at a folder of another user, who could have put a project in the way.

    Args:
        start: A folder of the project.
        config: Config of the project.
        explicit: The user named `start`, which may then belong to another user.

    Raises:
        UsageError: neither `start` nor a folder above it has fine-tuning/olive-config.json, nor AI Toolkit's finetuning/, or
            that folder belongs to another user.
    """
    if config is not None:
        config = config.absolute()
        if not config.is_file():
            raise UsageError(f"no config at {config}", fix="pass the path of an olive-config.json with --config")
        return project_of(config)
    start = start.absolute()
    for folder in (start, *start.parents):
        found = _config_in(folder)
        if found and (_is_own_project(folder, found) or (explicit and folder == start)):
            return ProjectFolder(root=folder, config=found)
        if found:
            raise UsageError(
                f"the project in {folder} belongs to another user", fix=f"pass --project {folder} to work in it"
            )
        if not is_own(folder):
            break
    raise UsageError(
        f"{start} is not in a phi-scaffold project (there is no {CONFIG.as_posix()} here or above)",
        fix="create one with `phi-scaffold new NAME`, change into one, or pass --project FOLDER",
    )


def project_of(config: Path) -> ProjectFolder:
    """Return the project of the file `config`; if it is in none, its folder is the root."""
    config = config.absolute()
    return ProjectFolder(root=root_of(config) or config.parent, config=config)


def root_of(config: Path) -> Path | None:
    """Return the root of the project that the file `config` is in: the folder above fine-tuning/. None if it is in none."""
    config = config.absolute()
    if config.parent.name in _CONFIG_FOLDERS:
        return config.parent.parent
    for folder in config.parents:
        if found := _config_in(folder):
            return folder if _is_own_project(folder, found) else None
    return None


def _is_own_project(folder: Path, config: Path) -> bool:
    return is_own(folder) and is_own(config.parent) and is_own(config)


def _config_in(folder: Path) -> Path | None:
    configs = (folder / name / CONFIG.name for name in _CONFIG_FOLDERS)
    return next((config for config in configs if config.is_file()), None)


def for_task(project: ProjectFolder, name: str, *, config_given: bool = False) -> ProjectFolder:
    """Return the project for the task `name`, with outputs in gen-model/<name>/.

    Its config is fine-tuning/<name>.olive-config.json if that exists and the user passed no other.

    Raises:
        UsageError: `name` cannot be a folder there.
    """
    kinds = "|".join(RESERVED)
    reserved = re.fullmatch(rf"({kinds})(-.*)?", name, re.IGNORECASE) or name.casefold() in WINDOWS_DEVICES
    if not re.fullmatch(r"[A-Za-z0-9_-]+", name) or reserved:
        raise UsageError(
            f"`{name}` is not a valid task name: use letters, digits, - and _, and none of {', '.join(RESERVED)}"
            ", nor a device of Windows such as `con`",
            fix="choose another --task-name",
        )
    own = project.config.with_name(f"{name}.{CONFIG.name}")
    config = own if own.is_file() and not config_given else project.config
    return replace(project, config=config, output=project.root / GEN_MODEL / name)


def tasks(project: ProjectFolder) -> list[str]:
    """Return the names of the other tasks that have runs in gen-model/."""
    folders = (runs.parent for runs in (project.root / GEN_MODEL).glob("*/runs"))
    return sorted(folder.name for folder in folders if folder.name not in RESERVED and folder != project.gen_model)


def refuse_links(project: ProjectFolder) -> None:
    """Raise UsageError for a link in a folder of outputs: writing through it would replace files outside of the project."""
    for top in (project.root / GEN_MODEL, project.model_cache):
        below = (Path(folder, name) for folder, *names in os.walk(top) for name in (*names[0], *names[1]))
        if link := next((path for path in chain([top], below) if path.is_symlink()), None):
            raise UsageError(
                f"{project.shown(link)} is a link, in a project that you have not set up here",
                where=Location(link),
                fix="remove it, or pass --trust-project once",
            )


def new_command(config: Path) -> str:
    """Return the command that creates a project around the existing file `config`."""
    return f"phi-scaffold new NAME --config {shlex.quote(str(config))}"


def setup_command(extra: str = "") -> str:
    """Return the command that installs a project's libraries, and those of `extra` (web, serve, sweep, qlora, data or azure)."""
    if os.name == "nt":
        return r"powershell -File setup\setup.ps1" + (f" -With {extra}" if extra else "")
    return "bash setup/setup.sh" + (f" --with {extra}" if extra else "")
