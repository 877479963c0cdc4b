"""fine-tuning/hooks.py: the user's own functions. Those over rows are called while the data are read, those of training there."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from phi_runtime.config.paths import resolve
from phi_runtime.config.schema import DataConfig
from phi_runtime.core.artifacts import digest, file_digest
from phi_runtime.core.errors import DataError, Location
from phi_runtime.data.template import RowFault

FILE = "hooks.py"
TEXT = "text"
ON_ROWS, IN_TRAINING = ("transform", "filter"), ("loss", "metrics")

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


def hooks_file(config_path: Path, functions: tuple[str, ...] = ON_ROWS) -> Path | None:
    """The hooks.py beside the config, if it defines one of `functions`, which is told without running it."""
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
    return path if names & {*functions, "*"} else None


def hooks_key(config_path: Path, functions: tuple[str, ...] = ON_ROWS) -> str:
    """The content of the hooks.py beside the config, without running it; empty where it defines none of `functions`."""
    path = hooks_file(config_path, functions)
    return file_digest(path) if path else ""


def training_key(config_path: Path) -> str:
    """The content of the hooks.py beside the config, without running it; empty where training has no use for it."""
    return hooks_key(config_path, IN_TRAINING)


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
        transform, keep = (_function(module, path, name) for name in ON_ROWS)
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


@dataclass(frozen=True)
class TrainingHooks:
    """`loss(model_output, batch)` instead of the cross-entropy, and `metrics(predictions, references)` of held-out answers."""

    loss: Callable[[Any, Values], Any] | None = None
    metrics: Callable[[list[str], list[str]], dict[str, float]] | None = None


def load_training_hooks(config_path: Path) -> TrainingHooks:
    """The functions of the hooks.py beside the config that training calls. What fails in them is a DataError with their line."""
    path = hooks_file(config_path, IN_TRAINING)
    if path is None:
        return TrainingHooks()
    module = import_file(path)
    loss, metrics = (_function(module, path, name) for name in IN_TRAINING)
    return TrainingHooks(_checked_loss(loss) if loss else None, _checked_metrics(metrics) if metrics else None)


def _checked_loss(function: Callable[[Any, Values], Any]) -> Callable[[Any, Values], Any]:
    def loss(output: Any, batch: Values) -> Any:
        made = _in_training(function, output, batch)
        if getattr(made, "ndim", None) != 0:
            shape = tuple(made.shape) if hasattr(made, "shape") else type(made).__name__
            raise DataError(f"loss returned {shape}", where=Location(FILE), fix="return a tensor of one number")
        return made

    return loss


def _checked_metrics(function: Callable[..., Any]) -> Callable[[list[str], list[str]], dict[str, float]]:
    def metrics(predictions: list[str], references: list[str]) -> dict[str, float]:
        made = _in_training(function, predictions, references)
        try:
            return {str(name): float(value) for name, value in made.items()}
        except (AttributeError, TypeError, ValueError):
            what = f"metrics returned {made!r:.80}"
            raise DataError(what, where=Location(FILE), fix='return numbers by name, such as {"f1": 0.5}') from None

    return metrics


def _in_training(function: Callable[..., Any], *given: Any) -> Any:
    try:
        return function(*given)
    except Exception as e:
        if isinstance(e, MemoryError) or "memory" in str(e):  # training knows what to do then
            raise
        what = f"{function.__name__} failed: {type(e).__name__}: {e}"
        raise DataError(what, where=_place(e), fix=f"mend {FILE}") from e


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
