"""Where things lie in an emitted project."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from pathlib import Path

from phi_runtime.core.errors import UsageError

CONFIG = Path("fine-tuning/olive-config.json")
GEN_MODEL = "gen-model"
# What else lies in gen-model/.
TAKEN = ("adapter", "merged", "onnx", "evaluation", "runs", "sweep", "optimize", "olive", "mlflow", "trackio", "wandb")


@dataclass(frozen=True)
class Project:
    """An emitted project. `root` holds the six folders; `config` is the workflow that this run follows.

    `made` is the folder for all that a run makes, with its record and its lock; None stands for gen-model/ itself. A task of its own
    (`--task-name`) and each trial of a sweep have a folder of theirs, so that they neither see nor disturb one another. What they
    share stays where it is: the base models in model-cache/, and the tokens of the data (`token_cache`), which are known by content.
    """

    root: Path
    config: Path
    made: Path | None = None

    def as_dict(self) -> dict[str, str | None]:
        """For a file, or another process."""
        return {"root": str(self.root), "config": str(self.config), "made": str(self.made) if self.made else None}

    @classmethod
    def from_dict(cls, value: dict[str, str | None]) -> Project:
        """The project that `as_dict` gave."""
        return cls(Path(str(value["root"])), Path(str(value["config"])), Path(value["made"]) if value["made"] else None)

    @property
    def model_cache(self) -> Path:
        return self.root / "model-cache"

    @property
    def gen_model(self) -> Path:
        """Where models, evaluation, runs and unfinished work lie."""
        return self.made or self.root / GEN_MODEL

    @property
    def token_cache(self) -> Path:
        """Where the tokenised data lie, for all that is made in this project."""
        return self.root / GEN_MODEL / ".data"

    @property
    def fetch_lock(self) -> Path:
        """Held while something is brought into model-cache/, which all runs of the project share."""
        return self.root / GEN_MODEL / ".fetch.lock"

    @property
    def runs(self) -> Path:
        return self.gen_model / "runs"

    def shown(self, path: Path) -> str:
        """`path` as a user would write it from the project's root, with forward slashes."""
        try:
            return path.relative_to(self.root).as_posix()
        except ValueError:
            return str(path)


def find_project(start: Path, config: Path | None = None) -> Project:
    """The project that `start` (a folder) lies in, or the one that `config` belongs to.

    Raises UsageError when neither `start` nor a folder above it holds fine-tuning/olive-config.json.
    """
    if config is not None:
        config = config.absolute()
        if not config.is_file():
            raise UsageError(f"no config at {config}", fix="give the path of an olive-config.json with --config")
        return project_of(config)
    start = start.absolute()
    for folder in (start, *start.parents):
        if (folder / CONFIG).is_file():
            return Project(root=folder, config=folder / CONFIG)
    raise UsageError(
        f"{start} is not in a phi-scaffold project (there is no {CONFIG.as_posix()} here or above)",
        fix="make one with `phi-scaffold new NAME`, or go into it, or name it with --project",
    )


def project_of(config: Path) -> Project:
    """The project that the file `config` belongs to: the folder above fine-tuning/, else the file's own."""
    config = config.absolute()
    home = config.parent.parent if config.parent.name == CONFIG.parent.name else config.parent
    return Project(root=home, config=config)


def for_task(project: Project, name: str, *, config_given: bool = False) -> Project:
    """The same project for the task `name`: what is made lies in gen-model/<name>/, and the config is
    fine-tuning/<name>.olive-config.json where there is one, unless the user gave another.

    Raises UsageError for a name that cannot be a folder there.
    """
    kinds = "|".join(TAKEN)
    if not re.fullmatch(r"[A-Za-z0-9_-]+", name) or re.fullmatch(rf"({kinds})(-.*)?", name, re.IGNORECASE):
        raise UsageError(
            f"`{name}` cannot name a task: letters, digits, - and _ can, but not {', '.join(TAKEN)}",
            fix="choose another --task-name",
        )
    own = project.config.with_name(f"{name}.{CONFIG.name}")
    config = own if own.is_file() and not config_given else project.config
    return replace(project, config=config, made=project.root / GEN_MODEL / name)


def tasks(project: Project) -> list[str]:
    """The tasks that have something in gen-model/, but the one that `project` is for."""
    folders = (runs.parent for runs in (project.root / GEN_MODEL).glob("*/runs"))
    return sorted(folder.name for folder in folders if folder.name not in TAKEN and folder != project.gen_model)


def read_dotenv(root: Path) -> None:
    """Puts the variables of the project's .env into the environment; what is already set there wins.

    Takes the lines `NAME=value` and `export NAME=value`; quotes around the value are removed, `#` starts a comment line.
    """
    file = root / ".env"
    if not file.is_file():
        return
    for line in file.read_text(encoding="utf-8-sig").splitlines():
        name, equals, value = line.strip().removeprefix("export ").partition("=")
        name, value = name.strip(), value.strip()
        if not equals or not name or name.startswith("#"):
            continue
        if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'":
            value = value[1:-1]
        if value:
            os.environ.setdefault(name, value)
