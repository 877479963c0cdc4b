"""Where things lie in an emitted project."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from phi_runtime.errors import UsageError

CONFIG = Path("fine-tuning/olive-config.json")


@dataclass(frozen=True)
class Project:
    """An emitted project. `root` holds the six folders; `config` is the workflow that this run follows."""

    root: Path
    config: Path

    @property
    def model_cache(self) -> Path:
        return self.root / "model-cache"

    @property
    def gen_model(self) -> Path:
        return self.root / "gen-model"

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
