"""The user's functions in fine-tuning/hooks.py: over rows while data is read, and in training."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from phi_runtime.config.paths import resolve
from phi_runtime.config.schema import DataConfig
from phi_runtime.core.artifacts import digest, file_digest
from phi_runtime.core.errors import DataError, Location, UsageError
from phi_runtime.data.row import RowError

FILE = "hooks.py"
TEXT = "text"
ON_ROWS, IN_TRAINING = ("transform", "filter"), ("loss", "metrics")

Values = dict[str, Any]


@dataclass(frozen=True)
class Hooks:
    """Functions applied to each row: `transform`, then `filter`, then `text`, which returns all of its text.

    `key` is a digest of the files that define them.
    """

    transform: Callable[[Values], Values | None] | None = None
    filter: Callable[[Values], bool] | None = None
    text: Callable[[Values], str] | None = None
    key: str = ""

    def __call__(self, values: Values) -> Values | None:
        """Return the row for training, or None to skip it. Raises RowError if a function fails."""
        if self.transform:
            result = _called(self.transform, values)
            if result is None:
                return None
            if not isinstance(result, dict):
                raise RowError(
                    f"transform returned {type(result).__name__}", f"return the row as a dict, or None ({FILE})"
                )
            values = result
        if self.filter:
            keep = _called(self.filter, values)
            if not isinstance(keep, bool):
                raise RowError(
                    f"filter returned {type(keep).__name__}", f"return True to keep the row, else False ({FILE})"
                )
            if not keep:
                return None
        if self.text:
            text = _called(self.text, values)
            if not isinstance(text, str):
                raise RowError(f"{self.text.__name__} returned {type(text).__name__}", "return the text of the row")
            return {TEXT: text}
        return values


def _called(function: Callable[[Values], Any], values: Values) -> Any:
    try:
        return function(dict(values))
    except Exception as e:
        raise RowError(f"{function.__name__} failed at {_place(e)}: {type(e).__name__}: {e}") from None


def hooks_file(config_path: Path, functions: tuple[str, ...] = ON_ROWS) -> Path | None:
    """Return the hooks.py next to the config if it defines one of `functions`; it is parsed, not run."""
    import ast

    path = config_path.parent / FILE
    if not path.is_file():
        return None
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):
        return path  # importing it will raise the error
    nodes = list(ast.walk(tree))  # also definitions below `if` and `try`
    names = {node.name for node in nodes if isinstance(node, ast.FunctionDef)}
    names |= {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    names |= {n.asname or n.name for node in nodes if isinstance(node, ast.Import | ast.ImportFrom) for n in node.names}
    return path if names & {*functions, "*"} else None


def require_trusted_hooks(config_path: Path, *, trusted: bool) -> None:
    """Raise UsageError if the project has a hooks.py and is not `trusted`."""
    if not trusted and (hooks := hooks_file(config_path, (*ON_ROWS, *IN_TRAINING))):
        raise UsageError(
            "the functions of hooks.py are code of a project that you have not set up here",
            where=Location(hooks),
            fix="read them, then pass --trust-project once",
        )


def hooks_key(config_path: Path, functions: tuple[str, ...] = ON_ROWS) -> str:
    """Return a digest of the hooks.py next to the config; "" if it defines none of `functions`."""
    path = hooks_file(config_path, functions)
    return file_digest(path) if path else ""


def functions_key(config_path: Path, data: DataConfig) -> str:
    """Return a digest of all files whose functions change the rows of `data`; "" if there is none."""
    keys = [hooks_key(config_path), script_of(data, config_path)[1]]
    return digest(keys) if any(keys) else ""


def load_hooks(config_path: Path, data: DataConfig) -> Hooks:
    """Return the functions of the hooks.py next to the config, and that of the user_script of `data`.

    Raises:
        DataError: a file cannot be imported (with the line), or lacks the function.
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


RowScores = dict[str, float | list[float]]
"""Scores by name: of all rows together, or of each row."""


@dataclass(frozen=True)
class MetricsHook:
    """`metrics(predictions, references)` of the user; `where` it is defined."""

    function: Callable[[list[str], list[str]], Any]
    where: Location

    def __call__(self, predictions: list[str], references: list[str]) -> RowScores:
        """Return the scores by name. Raises DataError if the function fails or returns anything else."""
        scores = _in_training(self.function, predictions, references)
        try:
            return {str(name): self._score(value, len(predictions)) for name, value in scores.items()}
        except (AttributeError, TypeError, ValueError):
            what = f"metrics returned {scores!r:.80}"
            fix = 'return numbers by name, such as {"f1": 0.5}, or a list with a number for each row'
            raise DataError(what, where=self.where, fix=fix) from None

    def means(self, predictions: list[str], references: list[str]) -> dict[str, float]:
        """Return the scores of all rows together."""
        scores = self(predictions, references)
        return {name: value if isinstance(value, float) else sum(value) / len(value) for name, value in scores.items()}

    @staticmethod
    def _score(value: Any, rows: int) -> float | list[float]:
        is_list = hasattr(value, "__len__") and not isinstance(value, str) and getattr(value, "ndim", None) != 0
        if not is_list:
            return float(value)
        if len(value) != rows:
            raise ValueError(value)
        return [float(number) for number in value]


@dataclass(frozen=True)
class TrainingHooks:
    """`loss(model_output, batch)` replaces the cross-entropy; `metrics` scores answers."""

    loss: Callable[[Any, Values], Any] | None = None
    metrics: MetricsHook | None = None


def load_training_hooks(config_path: Path) -> TrainingHooks:
    """Return the training functions of the hooks.py next to the config; an error in them raises DataError with their line."""
    path = hooks_file(config_path, IN_TRAINING)
    if path is None:
        return TrainingHooks()
    module = import_file(path)
    loss, metrics = (_function(module, path, name) for name in IN_TRAINING)
    return TrainingHooks(
        _checked_loss(loss) if loss else None, MetricsHook(metrics, _definition(metrics, path)) if metrics else None
    )


def _checked_loss(function: Callable[[Any, Values], Any]) -> Callable[[Any, Values], Any]:
    def loss(output: Any, batch: Values) -> Any:
        value = _in_training(function, output, batch)
        if getattr(value, "ndim", None) != 0:
            shape = tuple(value.shape) if hasattr(value, "shape") else type(value).__name__
            raise DataError(f"loss returned {shape}", where=Location(FILE), fix="return a tensor of one number")
        return value

    return loss


def _in_training(function: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return function(*arguments)
    except Exception as e:
        if isinstance(e, MemoryError) or "memory" in str(e):  # the trainer handles it
            raise
        what = f"{function.__name__} failed: {type(e).__name__}: {e}"
        raise DataError(what, where=_place(e), fix=f"fix {FILE}") from e


def script_of(data: DataConfig, config_path: Path) -> tuple[Path | None, str]:
    """Return the user_script of `data` and a digest of it, without running it; (None, "") without one."""
    settings = data.pre_process_data_config
    if not settings.text_formatting_func or not settings.user_script:
        return None, ""
    path = resolve(settings.user_script, config_path).path
    if not path.is_file():
        raise DataError(f"the script {path} does not exist", where=Location(config_path), fix="check user_script")
    return path, digest([file_digest(path), settings.text_formatting_func])


def import_file(path: Path, script_dir: Path | None = None) -> Any:
    """Import the module at `path` again; it can import modules of its own folder and of `script_dir`.

    Raises:
        DataError: the import fails, with the line.
    """
    import importlib.util

    name = f"_{path.stem}_{digest(str(path))[:12]}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    previous, folders = list(sys.path), [str(path.parent), *([str(script_dir)] if script_dir else [])]
    sys.path[:0] = folders
    sys.modules[name] = module  # dataclasses look it up there
    try:
        # Not through its loader, which uses a stale __pycache__ after a change within a second that keeps the size.
        exec(compile(path.read_bytes(), path, "exec", dont_inherit=True), vars(module))
    except SyntaxError as e:
        where = Location(e.filename or path, e.lineno or 0, e.offset or 0)
        raise DataError(f"{path.name} is not valid Python: {e.msg}", where=where, fix="fix the syntax") from None
    except Exception as e:
        where = _place(e)
        raise DataError(
            f"{path.name} cannot be imported: {type(e).__name__}: {e}", where=where, fix="fix the script"
        ) from None
    finally:
        sys.path[:] = previous
    return module


def _function(module: Any, path: Path, name: str) -> Any:
    function = getattr(module, name, None)
    if function is not None and not callable(function):
        raise DataError(
            f"`{name}` in {path.name} is not a function", where=Location(path), fix="define a function, or rename it"
        )
    return function


def _definition(function: Any, path: Path) -> Location:
    """Return the line where a function is defined."""
    code = getattr(function, "__code__", None)
    return Location(code.co_filename, code.co_firstlineno) if code else Location(path)


def _place(error: Exception) -> Location:
    """Return the line of the user's file that raised `error`."""
    import traceback

    frames = [
        f for f in traceback.extract_tb(error.__traceback__) if f.filename != __file__ and "importlib" not in f.filename
    ]
    return Location(frames[0].filename, frames[0].lineno or 0) if frames else Location(FILE)
