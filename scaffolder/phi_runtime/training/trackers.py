"""Experiment trackers, configured to write locally and to upload nothing unless the user is logged in.

Trainer's own callbacks report to them. They are configured by environment variables; those that the user has set, in the
shell or in the project's .env, are kept.
"""

from __future__ import annotations

import netrc
import os
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

from phi_runtime.core.errors import ConfigError, MissingDependency
from phi_runtime.core.suggestions import did_you_mean

TRACKERS = ("tensorboard", "mlflow", "trackio", "wandb")
"""Names in transformers, and of the packages as well."""

_set_here: dict[str, str] = {}  # variables set by this process, which its next training may change


def configure_trackers(
    report_to: str | Iterable[str], record: Path | None, gen_model: Path, project: str | None = None
) -> list[str]:
    """Set the environment of the trackers and return the value of TrainingArguments.report_to.

    Call it before the model is loaded.

    Args:
        report_to: Names from the config, `none`, or `all` for those that are installed.
        record: Folder of the run, for TensorBoard.
        gen_model: The project's gen-model/, for the others, which keep all runs in one place.
        project: Name of the project in the trackers; default: the name of the project's folder.

    Raises:
        MissingDependency: A tracker is not installed.
        ConfigError: A tracker is unknown.
    """
    requested = [report_to] if isinstance(report_to, str) else list(report_to)
    if "all" in requested:
        names = [name for name in TRACKERS if find_spec(name)]
    else:
        names = [name for name in dict.fromkeys(requested) if name != "none"]
    for name in names:
        _require(name)
    record, gen_model = (record or gen_model).absolute(), gen_model.absolute()
    for name in names:
        for variable, value in _variables(name, record, gen_model, project or project_name(gen_model)).items():
            _set_default(variable, value)
    return names


def receiver(name: str, trackio_space: str | None) -> str | None:
    """Return the host or Space that a configured tracker sends losses and settings to, or None if they stay here.

    Args:
        name: A tracker that `configure_trackers` returned.
        trackio_space: `trackio_space_id` of the config.
    """
    match name:
        case "mlflow":
            address = os.environ["MLFLOW_TRACKING_URI"]
            parts = urlsplit(address)
            local = parts.scheme in ("", "file", "sqlite") and address != "databricks"
            return None if local else parts.hostname or address
        case "trackio":
            return trackio_space or os.environ.get("TRACKIO_SPACE_ID") or None
        case "wandb":
            return _wandb_host() if os.environ.get("WANDB_MODE", "online") in ("online", "run", "shared") else None
        case _:
            return None


def project_name(gen_model: Path) -> str:
    """Return the name of the project's folder, from its gen-model/."""
    return gen_model.absolute().parent.name


def run_name(record: Path | None, stage: str) -> str:
    """Return the name of a run in the trackers; it is unique, since trackio continues a run whose name it knows."""
    return f"{stage}-{record.name}" if record else stage


def _require(name: str) -> None:
    if name not in TRACKERS:
        raise ConfigError(
            f"training_args.report_to: unknown tracker `{name}`{did_you_mean(name, TRACKERS)}",
            fix=f"use one of {', '.join(TRACKERS)}",
        )
    packages = [name]
    if name == "mlflow" and "MLFLOW_TRACKING_URI" not in os.environ:
        packages.append("sqlalchemy")  # for its database; mlflow-skinny does not install it
    if missing := [package for package in packages if not find_spec(package)]:
        raise MissingDependency(
            f"training_args.report_to names `{name}`, but {' and '.join(missing)} is not installed",
            fix=f"run `pip install 'phi-scaffold[track]'`, or install {missing[0]} alone; or set report_to to none",
        )


def _set_default(name: str, value: str) -> None:
    """Set a variable that the user has not set."""
    if name not in os.environ or os.environ[name] == _set_here.get(name):
        os.environ[name] = _set_here[name] = value


def _variables(name: str, record: Path, gen_model: Path, project: str) -> dict[str, str]:
    """Create the folder of a tracker and return its variables."""
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
            # Its only telemetry is that of the Hugging Face Hub.
            return {"TRACKIO_DIR": str(folder), "HF_HUB_DISABLE_TELEMETRY": "1"}
        case _:  # wandb, which creates its folder in WANDB_DIR
            quiet = {"WANDB_SILENT": "true", "WANDB_CONSOLE": "off", "WANDB_ERROR_REPORTING": "false"}
            offline = {} if _logged_in() else {"WANDB_MODE": "offline"}  # without an account it would prompt for one
            return {"WANDB_DIR": str(gen_model), "WANDB_PROJECT": project, **quiet, **offline}


def _wandb_host() -> str:
    return urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""


def _logged_in() -> bool:
    """Return True if W&B finds an account without prompting: in the environment, or where `wandb login` writes it."""
    if any(os.environ.get(name) for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE")):
        return True
    host = _wandb_host()
    netrc_path = os.environ.get("NETRC")
    files = [Path(netrc_path).expanduser()] if netrc_path else [Path.home() / ".netrc", Path.home() / "_netrc"]
    for file in files:
        try:
            if host in netrc.netrc(file).hosts:
                return True
        except (OSError, netrc.NetrcParseError):
            continue
    return False
