"""Experiment trackers: where each keeps what it is told, and that it tells nobody else. The Trainer's own callbacks do the telling.

They are steered by environment variables alone; what a user has set there, or in the project's .env, stays.
"""

from __future__ import annotations

import netrc
import os
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

from phi_runtime.core.errors import ConfigError, MissingDependency
from phi_runtime.core.project import GEN_MODEL
from phi_runtime.core.suggestions import did_you_mean

TRACKERS = ("tensorboard", "mlflow", "trackio", "wandb")
"""By the names that transformers has for them, which are those of their packages as well."""

_ours: dict[str, str] = {}  # what was set here, so that the next training of this process may set it anew


def trackers(
    report_to: str | Iterable[str], record: Path | None, gen_model: Path, project: str | None = None
) -> list[str]:
    """What TrainingArguments.report_to is to be, with the environment made ready for it; call it before the model is loaded.

    `report_to` is the config's: names, `none`, or `all` for those that are installed. What trackers write lies in `record` (the
    run's folder: TensorBoard) and in `gen_model` (the project's gen-model/: the others, which keep all runs in one place, under
    `project`, by default the name of the project's folder).

    Raises MissingDependency for one that is not installed, ConfigError for one that is not known.
    """
    named = [report_to] if isinstance(report_to, str) else list(report_to)
    if "all" in named:
        chosen = [name for name in TRACKERS if find_spec(name)]
    else:
        chosen = [name for name in dict.fromkeys(named) if name != "none"]
    for name in chosen:
        _require(name)
    record, gen_model = (record or gen_model).absolute(), gen_model.absolute()
    for name in chosen:
        for variable, value in _variables(name, record, gen_model, project or project_name(gen_model)).items():
            _default(variable, value)
    return chosen


def project_name(gen_model: Path) -> str:
    """The name of the folder that the project lies in, of its gen-model/ or of the folder of a task in there."""
    home = gen_model.absolute()
    return (home.parent.parent if home.parent.name == GEN_MODEL else home.parent).name


def run_name(record: Path | None, stage: str) -> str:
    """What the run of a stage is called: each has a name of its own, since trackio goes on with a run whose name it knows."""
    return f"{stage}-{record.name}" if record else stage


def _require(name: str) -> None:
    if name not in TRACKERS:
        raise ConfigError(
            f"training_args.report_to: there is no tracker `{name}`{did_you_mean(name, TRACKERS)}",
            fix=f"the trackers are {', '.join(TRACKERS)}",
        )
    needed = [name]
    if name == "mlflow" and "MLFLOW_TRACKING_URI" not in os.environ:
        needed.append("sqlalchemy")  # of its database; mlflow-skinny comes without
    if absent := [module for module in needed if not find_spec(module)]:
        raise MissingDependency(
            f"training_args.report_to names {name}, and {' and '.join(absent)} is not installed",
            fix=f"pip install 'phi-scaffold[track]', or {absent[0]} alone; or set report_to to none",
        )


def _default(name: str, value: str) -> None:
    """Sets a variable that the user has not set."""
    if name not in os.environ or os.environ[name] == _ours.get(name):
        os.environ[name] = _ours[name] = value


def _variables(name: str, record: Path, gen_model: Path, project: str) -> dict[str, str]:
    """What steers a tracker, its folder being made."""
    folder = record / name if name == "tensorboard" else gen_model / name
    folder.mkdir(parents=True, exist_ok=True)
    match name:
        case "tensorboard":
            return {"TENSORBOARD_LOGGING_DIR": str(folder)}
        case "mlflow":
            return {
                "MLFLOW_TRACKING_URI": f"sqlite:///{(folder / 'mlflow.db').as_posix()}",  # MLflow 3.17 refuses plain files
                "MLFLOW_EXPERIMENT_NAME": project,
                "MLFLOW_DISABLE_TELEMETRY": "true",
                "MLFLOW_LOGGING_LEVEL": "WARNING",
            }
        case "trackio":
            return {
                "TRACKIO_DIR": str(folder),
                "HF_HUB_DISABLE_TELEMETRY": "1",
            }  # it has no other telemetry than the hub's
        case _:  # wandb, which makes its folder itself, in the one that it is given
            quiet = {"WANDB_SILENT": "true", "WANDB_CONSOLE": "off", "WANDB_ERROR_REPORTING": "false"}
            offline = {} if _logged_in() else {"WANDB_MODE": "offline"}  # without an account it would ask for one
            return {"WANDB_DIR": str(gen_model), "WANDB_PROJECT": project, **quiet, **offline}


def _logged_in() -> bool:
    """Whether W&B would find an account without asking: in the environment, or where `wandb login` writes it."""
    if any(os.environ.get(name) for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE")):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).netloc
    named = os.environ.get("NETRC")
    for file in [Path(named).expanduser()] if named else [Path.home() / ".netrc", Path.home() / "_netrc"]:
        try:
            if host in netrc.netrc(file).hosts:
                return True
        except (OSError, netrc.NetrcParseError):
            continue
    return False
