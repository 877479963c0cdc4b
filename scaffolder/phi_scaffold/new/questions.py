"""The questions of `new`: what is given is checked, what is missing is asked on a terminal or takes its default."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from phi_runtime.core.errors import Location, UsageError
from phi_runtime.core.suggestions import did_you_mean
from phi_runtime.data.columns import find_columns
from phi_scaffold.new.catalog import DEFAULT, catalog, find_model
from phi_scaffold.new.generate import METHODS, PRECISIONS, TARGETS, TASKS, Answers, task_of

OneOf = Callable[[str, str, Iterable[str]], str]
KEYS = ("model", "task", "method", "target", "precision", "data", "columns", "prompt_template")


def ask(given: dict[str, Any], *, interactive: bool, one_of: OneOf) -> Answers:
    """Answers from what is `given`, by name of the flag; raises UsageError for a value that is not known."""
    put = _prompt if interactive else _default
    model = find_model(str(given.get("model") or put("Base model", list(catalog().models), DEFAULT)))
    data = given.get("data")
    if data is None and interactive and "data" not in given:
        data = _prompt("Data file (empty: sample data)", None, "") or None
    data = Path(data).expanduser() if data else None
    columns = _columns(given.get("columns") or (), data)
    found = find_columns(data, columns) if data else None
    usual = task_of(found) if found else TASKS[0]
    task = one_of("--task", str(given.get("task") or put("What it is to learn", TASKS, usual)), TASKS)
    method = one_of("--method", str(given.get("method") or put("How it is trained", METHODS, METHODS[0])), METHODS)
    target = one_of("--target", str(given.get("target") or put("What it is made for", TARGETS, TARGETS[0])), TARGETS)
    runnable = PRECISIONS[target]
    precision = one_of(
        "--precision",
        str(given.get("precision") or put("Precision of the ONNX model", runnable, "int4")),
        PRECISIONS["cuda"],
    )
    return Answers(
        model=model,
        task=task,
        method=method,
        target=target,
        precision=precision,
        data=data,
        columns=columns,
        prompt_template=str(given.get("prompt_template") or "plain"),
        found=found,
    )


def _columns(given: Any, data: Path | None) -> tuple[str, ...]:
    columns = tuple(c.strip() for c in given.split(",") if c.strip()) if isinstance(given, str) else tuple(given)
    if columns and not data:
        raise UsageError("--columns names columns of your own data, and there is no --data", fix="add --data FILE")
    if len(columns) == 1:
        raise UsageError(
            "--columns needs at least two: what is asked, and last the answer",
            fix="for example --columns question,reply",
        )
    return columns


def read_answers(path: Path) -> dict[str, Any]:
    """Answers from a JSON file with the names of the flags as keys, or from a project's .copier-answers.yml.

    Raises UsageError for a file that cannot be read and for a key that is not known.
    """
    import yaml

    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as e:
        raise UsageError(f"{path} cannot be read: {e}", fix="check --data-file") from e
    except yaml.YAMLError as e:
        mark = getattr(e, "problem_mark", None)
        where = Location(path, mark.line + 1, mark.column + 1) if mark else Location(path)
        raise UsageError("this is neither JSON nor YAML", where=where, fix="mend the file") from e
    if not isinstance(values, dict):
        raise UsageError(f"{path} does not hold answers by name", fix=f'write {{"model": "{DEFAULT}", …}}')
    if "_src_path" in values:  # a project's answers file: its text template and its data are taken as they are
        answers = {k: values[k] for k in KEYS if k in values}
        data = path.parent / "datasets" / str(values.get("data_file", ""))
        return {
            **answers,
            **({"data": data} if data.is_file() else {}),
            "prompt_template": values.get("text_template") or "plain",
        }
    for key in values:
        if key not in KEYS:
            raise UsageError(
                f"{path} has an unknown answer `{key}`{did_you_mean(str(key), KEYS)}",
                fix=f"known are {', '.join(KEYS)}",
            )
    return values


def _default(_: str, __: Iterable[str] | None, default: str) -> str:
    return default


def _prompt(text: str, choices: Iterable[str] | None, default: str) -> str:
    """Asks on the terminal, on stderr. Ctrl-C and the end of input stop the command."""
    from rich.console import Console
    from rich.prompt import Prompt

    choices = list(choices) if choices else []
    shown = f"{text} [dim]({', '.join(choices)})[/dim]" if choices else text
    try:
        return Prompt.ask(shown, console=Console(stderr=True), default=default)
    except EOFError:
        raise KeyboardInterrupt from None
