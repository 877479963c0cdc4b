"""The questions of `new`: validate what the flags answer; prompt for the rest on a terminal, or use the default."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable
from dataclasses import fields
from pathlib import Path
from typing import Any

from phi_runtime.core.errors import Location, UsageError
from phi_runtime.core.hub_id import HUB_ID
from phi_runtime.core.suggestions import did_you_mean
from phi_scaffold.new.answers import METHODS, PRECISION, PRECISIONS, TARGETS, TASKS, Answers, FormFlags
from phi_scaffold.new.catalog import DEFAULT, catalog, find_model
from phi_scaffold.new.data_source import columns_of, data_source
from phi_scaffold.new.derive import task_of

OneOf = Callable[[str, str, Iterable[str]], str]
FORM_KEYS = tuple(field.name for field in fields(FormFlags))
KEYS = ("model", "task", "method", "target", "precision", "data", "columns", "prompt_template", *FORM_KEYS)


def ask(flags: dict[str, Any], *, interactive: bool, one_of: OneOf) -> Answers:
    """Complete the answers.

    Args:
        flags: Answers by the name of their flag.
        interactive: Prompt for the missing ones instead of using defaults.
        one_of: Returns the choice that a value of a flag names.

    Raises:
        UsageError: A value is unknown.
        DataError: The data file is not usable.
    """
    prompt = _prompt if interactive else _default

    def choose(name: str, question: str, choices: Iterable[str], default: str, known: Iterable[str] = ()) -> str:
        value = flags.get(name) or prompt(question, choices, default)
        return one_of(f"--{name}", str(value), known or choices)

    model = find_model(str(flags.get("model") or prompt("Base model", catalog().models, DEFAULT)))
    data = flags.get("data")
    if data is None and interactive and "data" not in flags:
        data = _prompt("Data file, folder or Hub id (empty: sample data)", (), "") or None
    columns = _columns(flags.get("columns") or (), data)
    prompt_template = str(flags.get("prompt_template") or "plain")
    form = _form(flags, data)
    data_columns = columns_of(data_source(data, form), columns, prompt_template) if data else None
    task = choose("task", "Task to learn", TASKS, task_of(data_columns) if data_columns else TASKS[0])
    method = choose("method", "Training method", METHODS, METHODS[0])
    target = choose("target", "Hardware to run on", TARGETS, TARGETS[0])
    # An unsupported precision is refused later, with the ones that the target supports.
    every_precision = PRECISIONS["cuda"]
    precision = choose("precision", "Precision of the ONNX model", PRECISIONS[target], PRECISION, every_precision)
    return Answers(model, task, method, target, precision, data, columns, prompt_template, form, data_columns)


def _form(flags: dict[str, Any], data: str | Path | None) -> FormFlags:
    form = FormFlags(**{key: flags[key] for key in FORM_KEYS if key in flags})
    if form.flags and not data:
        raise UsageError(f"{form.flags[0]} is for data of your own, and there is no --data", fix="add --data FILE")
    return form


def _columns(flag: Any, data: str | Path | None) -> tuple[str, ...]:
    written = next(csv.reader([flag], skipinitialspace=True), []) if isinstance(flag, str) else flag
    columns = tuple(c.strip() for c in written if c.strip())
    if columns and not data:
        raise UsageError("--columns selects columns of your own data, and there is no --data", fix="add --data FILE")
    return columns


def read_answers(path: Path) -> dict[str, Any]:
    """Read answers from a JSON or YAML file with flag names as keys, or from the .copier-answers.yml of a project.

    Raises:
        UsageError: The file cannot be read, or has an unknown key.
    """
    import yaml

    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as e:
        raise UsageError(f"{path} cannot be read: {e}", fix="check --data-file") from e
    except yaml.YAMLError as e:
        mark = getattr(e, "problem_mark", None)
        where = Location(path, mark.line + 1, mark.column + 1) if mark else Location(path)
        raise UsageError("not valid JSON or YAML", where=where, fix="correct the syntax at this place") from e
    if not isinstance(values, dict):
        raise UsageError(f"{path} is not an object of answers", fix=f'write {{"model": "{DEFAULT}", …}}')
    if "_src_path" in values:  # written by copier: use its text template and its data
        answers = {k: values[k] for k in KEYS if k in values}
        written = str(values.get("data_file", ""))
        datasets = path.parent / "datasets"
        if any(datasets.glob(written.rstrip("/") or "*")):
            answers["data"] = datasets / written
        elif HUB_ID.fullmatch(written.partition(":")[0]):
            answers["data"] = written
        return {
            **answers,
            "prompt_template": values.get("text_template") or "plain",
        }
    for key in values:
        if key not in KEYS:
            raise UsageError(
                f"unknown answer `{key}` in {path}{did_you_mean(str(key), KEYS)}",
                fix=f"the known answers are {', '.join(KEYS)}",
            )
    return values


def _default(_question: str, _choices: Iterable[str], default: str) -> str:
    return default


def _prompt(question: str, choices: Iterable[str], default: str) -> str:
    """Prompt on stderr; the end of input stops the command like Ctrl-C."""
    from rich.console import Console
    from rich.prompt import Prompt

    shown = f"{question} [dim]({', '.join(choices)})[/dim]" if choices else question
    try:
        return Prompt.ask(shown, console=Console(stderr=True), default=default)
    except EOFError:
        raise KeyboardInterrupt from None
