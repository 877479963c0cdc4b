"""fine-tuning/hooks.py: the user's own functions over rows, called while the data are read."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from phi_runtime.artefacts import digest, file_digest
from phi_runtime.data.template import RowFault
from phi_runtime.errors import DataError, Location
from phi_runtime.workflow.paths import resolve
from phi_runtime.workflow.schema import DataConfig

FILE = "hooks.py"
TEXT = "text"

Values = dict[str, Any]


@dataclass(frozen=True)
class Hooks:
    """What is done to each row: `transform`, then `filter`, then `text`, which makes all of its text. `key` names the content of
    the files that the functions come from."""

    transform: Callable[[Values], Values | None] | None = None
    filter: Callable[[Values], bool] | None = None
    text: Callable[[Values], str] | None = None
    key: str = ""

    def __call__(self, values: Values) -> Values | None:
        """The row as it is trained; None where it is to be left out. Raises RowFault when a function fails."""
        if self.transform:
            made = _called(self.transform, values)
            if made is None:
                return None
            if not isinstance(made, dict):
                raise RowFault(
                    f"transform returned {type(made).__name__}", f"return the row as a dict, or None ({FILE})"
                )
            values = made
        if self.filter:
            keep = _called(self.filter, values)
            if not isinstance(keep, bool):
                raise RowFault(
                    f"filter returned {type(keep).__name__}", f"return True to keep the row, else False ({FILE})"
                )
            if not keep:
                return None
        if self.text:
            text = _called(self.text, values)
            if not isinstance(text, str):
                raise RowFault(f"{self.text.__name__} returned {type(text).__name__}", "return the text of the row")
            return {TEXT: text}
        return values


def _called(function: Callable[[Values], Any], values: Values) -> Any:
    try:
        return function(dict(values))
    except Exception as e:
        raise RowFault(f"{function.__name__} failed at {_place(e)}: {type(e).__name__}: {e}") from None


def hooks_file(config_path: Path) -> Path | None:
    """The hooks.py beside the config, if it defines a function that is called, which is told without running it."""
    import ast

    path = config_path.parent / FILE
    if not path.is_file():
        return None
    try:
        found = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):
        return path  # whoever runs it will say what is wrong
    nodes = list(ast.walk(found))  # also what stands below `if` and `try`
    names = {node.name for node in nodes if isinstance(node, ast.FunctionDef)}
    names |= {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    names |= {n.asname or n.name for node in nodes if isinstance(node, ast.Import | ast.ImportFrom) for n in node.names}
    return path if names & {"transform", "filter", "*"} else None


def hooks_key(config_path: Path) -> str:
    """The content of the hooks.py beside the config, without running it; empty where there is none."""
    path = hooks_file(config_path)
    return file_digest(path) if path else ""


def functions_key(config_path: Path, data: DataConfig) -> str:
    """The content of all files whose functions change the rows of `data`, without running them; empty where there is none."""
    keys = [hooks_key(config_path), script_of(data, config_path)[1]]
    return digest(keys) if any(keys) else ""


def load_hooks(config_path: Path, data: DataConfig) -> Hooks:
    """The functions of the hooks.py beside the config, and the one of a user_script that `data` names.

    Raises DataError, with the line, when a file cannot be imported or has no such function.
    """
    transform = keep = text = None
    if path := hooks_file(config_path):
        module = import_file(path)
        transform, keep = (_function(module, path, name) for name in ("transform", "filter"))
    script, _ = script_of(data, config_path)
    if script is not None:
        settings = data.pre_process_data_config
        folder = resolve(settings.script_dir, config_path).path if settings.script_dir else None
        name = str(settings.text_formatting_func)
        text = _function(import_file(script, folder), script, name)
        if text is None:
            raise DataError(
                f"{script.name} has no function `{name}`", where=Location(script), fix="check text_formatting_func"
            )
    return Hooks(transform, keep, text, functions_key(config_path, data))


def script_of(data: DataConfig, config_path: Path) -> tuple[Path | None, str]:
    """The user_script whose function makes the texts of `data`, without running it, and its content; None and empty without one."""
    settings = data.pre_process_data_config
    if not settings.text_formatting_func or not settings.user_script:
        return None, ""
    path = resolve(settings.user_script, config_path).path
    if not path.is_file():
        raise DataError(f"there is no script {path}", where=Location(config_path), fix="check user_script")
    return path, digest([file_digest(path), settings.text_formatting_func])


def import_file(path: Path, beside: Path | None = None) -> Any:
    """The module at `path`, run anew; modules in its own folder and in `beside` can be imported by it. Raises DataError."""
    import importlib.util

    name = f"_{path.stem}_{digest(str(path))[:12]}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    before, folders = list(sys.path), [str(path.parent), *([str(beside)] if beside else [])]
    sys.path[:0] = folders
    sys.modules[name] = module  # where dataclasses look
    try:
        # Not by its loader, which takes what it has in __pycache__ where a change of a second left as many bytes.
        exec(compile(path.read_bytes(), path, "exec", dont_inherit=True), vars(module))
    except SyntaxError as e:
        where = Location(e.filename or path, e.lineno or 0, e.offset or 0)
        raise DataError(f"{path.name} is not Python: {e.msg}", where=where, fix="mend it") from None
    except Exception as e:
        where = _place(e)
        raise DataError(
            f"{path.name} cannot be imported: {type(e).__name__}: {e}", where=where, fix="mend it"
        ) from None
    finally:
        sys.path[:] = before
    return module


def _function(module: Any, path: Path, name: str) -> Any:
    found = getattr(module, name, None)
    if found is not None and not callable(found):
        raise DataError(
            f"`{name}` in {path.name} is not a function", where=Location(path), fix="make it one, or rename it"
        )
    return found


def _place(error: Exception) -> Location:
    """The line of the user's file that failed, below our own."""
    import traceback

    frames = [
        f for f in traceback.extract_tb(error.__traceback__) if f.filename != __file__ and "importlib" not in f.filename
    ]
    return Location(frames[0].filename, frames[0].lineno or 0) if frames else Location(FILE)
