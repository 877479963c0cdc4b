"""The answers that the flags of `new`, or a file, give."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from phi_runtime.core.errors import Location, UsageError
from phi_runtime.core.hub_id import HUB_ID
from phi_runtime.core.project import CONFIG
from phi_runtime.core.suggestions import did_you_mean, one_of
from phi_runtime.data.columns import Columns
from phi_scaffold.new.answers import CHOICES, METHODS, OTHER_WORDS, PRECISION, TARGETS, TASKS, Answers, FormFlags
from phi_scaffold.new.base_models import find_base_model
from phi_scaffold.new.catalog import DEFAULT
from phi_scaffold.new.data_source import columns_of, data_source
from phi_scaffold.new.derive import task_of

FORM_KEYS = tuple(field.name for field in fields(FormFlags))
KEYS = ("model", "task", "method", "target", "precision", "data", "columns", "prompt_template", *FORM_KEYS)


def answers_from(flags: Mapping[str, Any], data_columns: Columns | None = None) -> Answers:
    """Return the answers that flags give, with defaults for the others.

    Args:
        flags: Answers by the name of their flag.
        data_columns: Contents of the data, if it was read already.

    Raises:
        UsageError: A value is unknown.
        DataError: The data file is not usable.
    """
    model = find_base_model(str(flags.get("model") or DEFAULT))
    data = flags.get("data") or None
    columns = _columns(flags.get("columns") or (), data)
    prompt_template = str(flags.get("prompt_template") or "plain")
    form = _form(flags, data)
    if data and data_columns is None:
        data_columns = columns_of(data_source(data, form), columns, prompt_template)
    task = choice("task", flags.get("task") or (task_of(data_columns) if data_columns else TASKS[0]))
    method = choice("method", flags.get("method") or METHODS[0])
    target = choice("target", flags.get("target") or TARGETS[0])
    precision = choice("precision", flags.get("precision") or PRECISION)
    return Answers(model, task, method, target, precision, data, columns, prompt_template, form, data_columns)


def choice(name: str, value: Any) -> str:
    """Return the value of the flag `name` that `value` means: in any case, or by another usual name.

    Raises:
        UsageError: There is no such value; the message suggests the nearest, or where to set it.
    """
    word = str(value).strip()
    word = OTHER_WORDS.get(name, {}).get(word.casefold(), word)
    if name == "method" and word.casefold() not in METHODS and (kind := _other_methods().get(word.casefold())):
        raise UsageError(
            f"`{kind}` is a setting of a project, not a method of `new`",
            fix=f'use --method lora, then set "type": "{kind}" in the pass `finetune` of {CONFIG}',
        )
    return one_of(f"--{name}", word, CHOICES[name])


def _other_methods() -> dict[str, str]:
    """Return the types of the passes that train, by their names in lower case."""
    from phi_runtime.config.schema.registry import pass_types

    return {name.casefold(): name for name, cls in pass_types().items() if "training_args" in cls.model_fields}


def _form(flags: Mapping[str, Any], data: str | Path | None) -> FormFlags:
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
    fix = f'name a .copier-answers.yml with --from, or a file such as {{"model": "{DEFAULT}"}}'
    values = load_answers(path, fix=fix)
    if "_src_path" in values:
        return answers_of_copier(values, path.parent)
    for key in values:
        if key not in KEYS:
            raise UsageError(
                f"unknown answer `{key}` in {path}{did_you_mean(str(key), KEYS)}",
                fix=f"the known answers are {', '.join(KEYS)}",
            )
    return values


def load_answers(path: Path, *, fix: str) -> dict[str, Any]:
    """Return the content of a file of answers, an object in JSON or YAML.

    Args:
        path: The file.
        fix: The fix of a file that cannot be read, or is no object.

    Raises:
        UsageError: The file cannot be read.
    """
    import yaml

    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as e:
        raise UsageError(f"{path} cannot be read: {e.strerror}", fix=fix) from e
    except UnicodeDecodeError as e:
        raise UsageError(f"{path} is not UTF-8", fix=fix) from e
    except yaml.YAMLError as e:
        mark = getattr(e, "problem_mark", None)
        where = Location(path, mark.line + 1, mark.column + 1) if mark else Location(path)
        raise UsageError("not valid JSON or YAML", where=where, fix="correct the syntax at this place") from e
    if not isinstance(values, dict):
        raise UsageError(f"{path} is not an object of answers", fix=fix)
    return values


def answers_of_copier(values: Mapping[str, Any], project: Path) -> dict[str, Any]:
    """Return the answers in the .copier-answers.yml of `project`, with its text template and its data."""
    answers = {k: values[k] for k in KEYS if k in values}
    written = str(values.get("data_file", ""))
    datasets = project / "datasets"
    if any(datasets.glob(written.rstrip("/") or "*")):
        answers["data"] = datasets / written
    elif HUB_ID.fullmatch(written.partition(":")[0]):
        answers["data"] = written
    return {**answers, "prompt_template": values.get("text_template") or "plain"}
