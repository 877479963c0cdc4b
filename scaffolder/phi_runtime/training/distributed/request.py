"""What the processes of a training are told, and what they died of: files of JSON, since reading them must run no code."""

from __future__ import annotations

import builtins
import json
import traceback
from pathlib import Path
from typing import Any

from phi_runtime.config.overrides import Overrides
from phi_runtime.config.schema import canonical
from phi_runtime.context import PassContext
from phi_runtime.core.artifacts import digest, write_json
from phi_runtime.core.errors import ConfigError, Location, PhiError, error_of, told
from phi_runtime.core.events import silent
from phi_runtime.core.project import Project
from phi_runtime.models.reference import ModelRef
from phi_runtime.pipeline.load import load_workflow

FILE = "request.json"


def write_request(context: PassContext, folder: Path) -> Path:
    """The file that tells the processes what to do."""
    request = {
        "name": context.name,
        "config": digest(canonical(context.config)),
        "source": _plain(context.source),
        "out": str(context.out),
        "work": str(context.work),
        "project": context.project.as_dict(),
        "overrides": context.overrides.as_dict(),
        "record": str(context.record) if context.record else None,
    }
    path = folder / FILE
    write_json(path, request)
    return path


def read_request(path: Path) -> PassContext:
    """The pass that the file asks for. Raises ConfigError when the config is not the one any more that it was written for."""
    asked = json.loads(path.read_text(encoding="utf-8"))
    project, overrides = Project.from_dict(asked["project"]), Overrides.from_dict(asked["overrides"])
    workflow = load_workflow(project.config, overrides)
    step = workflow.passes.get(asked["name"])
    if step is None or digest(canonical(step)) != asked["config"]:
        raise ConfigError(
            f"`{asked['name']}` was changed after this run began", where=Location(project.config), fix="run again"
        )
    record = Path(asked["record"]) if asked["record"] else None
    source, out, work = _model(asked["source"]), Path(asked["out"]), Path(asked["work"])
    return PassContext(asked["name"], step, source, out, work, workflow, project, silent, overrides, record)


def _plain(model: ModelRef) -> dict[str, Any]:
    return {**vars(model), "path": str(model.path), "base": _plain(model.base) if model.base else None}


def _model(value: dict[str, Any]) -> ModelRef:
    base = _model(value["base"]) if value["base"] else None
    return ModelRef(**{**value, "path": Path(value["path"]), "base": base})


# -- errors -------------------------------------------------------------------------------------------------------------------


def keep_error(error: BaseException, request: Path, rank: str) -> None:
    """Leaves `error`, with where it happened, for `errors_of`."""
    kept: dict[str, Any] = {
        "type": type(error).__name__,
        "note": f"in process {rank}:\n{''.join(traceback.format_exception(error))}",
        "errno": getattr(error, "errno", None),
        "message": str(error),
    }
    if isinstance(error, PhiError):
        kept["told"] = told(error)
    write_json(request.with_name(f"error-{rank}.json"), kept)


def errors_of(request: Path) -> list[BaseException]:
    """What the processes of `request` failed of, the first first."""
    files = sorted(request.parent.glob("error-*.json"), key=lambda file: file.stat().st_mtime_ns)
    return [_error(json.loads(file.read_text(encoding="utf-8"))) for file in files]


def forget_errors(request: Path) -> None:
    """Takes away those of an earlier run."""
    for file in request.parent.glob("error-*.json"):
        file.unlink()


def _error(kept: dict[str, Any]) -> BaseException:
    theirs = getattr(builtins, kept["type"], None)
    error: BaseException
    if "told" in kept:
        error = error_of(kept["told"])
    elif kept["errno"] is not None:
        error = OSError(kept["errno"], kept["message"])
    elif isinstance(theirs, type) and issubclass(theirs, Exception | KeyboardInterrupt):
        error = theirs(kept["message"])
    else:
        error = RuntimeError(f"{kept['type']}: {kept['message']}")
    error.add_note(kept["note"])
    return error
