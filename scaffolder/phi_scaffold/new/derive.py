"""Values for the questions of copier.yml, derived from the user's answers, the model catalog and the data."""

from __future__ import annotations

import json
import string
import textwrap
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from phi_runtime.core.errors import UsageError
from phi_runtime.core.suggestions import did_you_mean
from phi_runtime.data.column_meanings import key_of
from phi_runtime.data.columns import Columns
from phi_runtime.data.encodings import WINDOWS
from phi_runtime.data.labels import few_rows
from phi_runtime.data.template import PromptTemplate, TemplateError
from phi_scaffold import __version__
from phi_scaffold.new.answers import PRECISIONS, Answers
from phi_scaffold.new.base_models import base_model
from phi_scaffold.new.catalog import BaseModel, PromptFormat, catalog
from phi_scaffold.new.data_source import HubData, LocalData, columns_of
from phi_scaffold.new.fit import fit_notes
from phi_scaffold.new.lengths import lengths_of
from phi_scaffold.new.renaming import renamed
from phi_scaffold.new.template_files import local_requirement, own_requirement

SAMPLE_FILE = "train.jsonl"
# The sample data of each task (samples/): columns, number of rows, and the longest row and answer in characters.
SAMPLES = {
    "classification": Columns(("phrase",), "tone", 600, (), longest=127, longest_answer=8),
    "chat": Columns(("messages",), "messages", 170, (), "chat", longest=422, longest_answer=139),
    "question-answering": Columns(("context", "question"), "answer", 180, (), longest=267, longest_answer=29),
    "summarization": Columns(("text",), "summary", 150, (), longest=466, longest_answer=94),
    "extraction": Columns(("text",), "record", 180, (), longest=224, longest_answer=103),
    "generation": Columns(("note",), "message", 170, (), longest=141, longest_answer=100),
}
EVAL_DATASET_SIZE = 0.2  # of the config in template/
_SMALL_MODEL_PARAMETERS = 500e6  # trains with 8 rows a step, without checkpointing, in a few GB
_LONGEST_LABEL = 40  # characters of a label that a note shows
_TEMPLATE_FIX = "use plain, chat, or a text such as '{question}\\n{answer}'"


def derive(answers: Answers) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return a value for every question of copier.yml except the name, and notes on the model and the data for the user.

    Raises:
        UsageError: The target cannot run the precision, or the prompt template does not fit the data.
        DataError: The user's data file cannot be used.
    """
    if answers.precision not in PRECISIONS[answers.target]:
        raise UsageError(
            f"`{answers.precision}` does not run on {answers.target}",
            fix=f"choose --precision {', '.join(PRECISIONS[answers.target])}",
        )
    notes: list[str] = []
    model = base_model(answers.model)
    if model is None:
        hint = did_you_mean(answers.model, catalog().models)
        notes.append(f"`{answers.model}` is not in the catalog: its settings are detected when it is loaded{hint}")
    notes += fit_notes(answers, model)
    columns = answers.data_columns or SAMPLES[answers.task]
    source = answers.source
    originals: Mapping[str, str] = {}
    load_options: dict[str, Any] = {}
    if source:
        columns = answers.data_columns or columns_of(source, answers.columns, answers.prompt_template)
        notes += [data_note(columns, source), *_unused_notes(columns), *columns.remarks]
        held_out = round(EVAL_DATASET_SIZE * columns.questions)
        notes += few_rows(held_out)
        if columns.questions and not held_out:
            notes.append(
                f"no validation row: {_count(columns.rows, 'row is', 'rows are')} too few, and nothing measures the model"
            )
        renaming = renamed(columns, source)
        columns, originals = renaming.columns, renaming.originals
        notes += renaming.notes
        if isinstance(source, LocalData):
            load_options |= source.load_options
            notes += _form_notes(source)
        load_options |= renaming.load_options
    chat_template = ""
    if columns.kind == "chat":
        prompt_format = catalog().format_of(answers.model)
        needs_template = model is not None and model.base
        chat_template = prompt_format.chat_template if needs_template else "own"
        notes += _chat_notes(answers, needs_template, prompt_format.name)
    text_template = text_template_for(answers, columns, originals) if columns.kind == "columns" else ""
    optional = _optional(text_template, columns.optional) if text_template else []
    notes += [
        f"`{name}` is empty in some rows, and the template renders the text around it there"
        for name in columns.optional
        if columns.kind == "columns" and name not in optional
    ]
    return {
        "model": answers.model,
        "model_path": answers.model if Path(answers.model).is_absolute() else f"../model-cache/{answers.model}",
        "task": answers.task,
        "method": answers.method,
        "target": answers.target,
        "precision": answers.precision,
        **_source_values(source),
        "load_options": load_options,
        "rows": columns.kind,
        "text_template": text_template,
        "optional_cols": optional,
        "col_filters": dict(columns.filters),
        "chat_template": chat_template,
        "text_column": columns.answer,
        "prompt_columns": [name for name in columns.inputs if columns.kind == "chat" and name != columns.answer],
        "sample_data": answers.data is None,
        "existing_config": "",
        **of_this_version(),
        **_training_settings(answers, model, columns),
        **lengths_of(answers, columns, text_template, optional),
    }, tuple(notes)


def of_this_version() -> dict[str, str]:
    """Return the values that depend on the running phi-scaffold alone."""
    return {
        "phi_scaffold_version": __version__,
        "phi_scaffold_requirement": own_requirement(),
        "phi_scaffold_local": local_requirement(),
    }


def recorded(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values that a project records in its answers file, for `update`: all but a path of this machine."""
    return {name: value for name, value in values.items() if name != "phi_scaffold_local"}


def _source_values(source: HubData | LocalData | None) -> dict[str, str]:
    if source is None:
        return {"data_file": SAMPLE_FILE, "data_name": "json", "split": "train"}
    if isinstance(source, HubData):
        split = "" if source.split == "train" else f":{source.split}"
        return {"data_file": source.id + split, "data_name": source.id, "split": source.split}
    return {"data_file": source.name, "data_name": source.format, "split": "train"}


def _training_settings(answers: Answers, model: BaseModel | None, columns: Columns) -> dict[str, Any]:
    small = model is not None and model.parameters < _SMALL_MODEL_PARAMETERS
    is_small_int4 = small and answers.precision == "int4"
    adapter_rate = model.learning_rate if model else 2e-4
    # A label is learned in one or two passes over the data, a style of writing in more.
    epochs = (1 if answers.task == "classification" else 2) * (1 if columns.rows > 1000 else 2)
    return {
        "target_modules": list(model.target_modules) if model and model.target_modules else None,
        "learning_rate": 5e-5 if answers.method == "full" else adapter_rate,
        "num_train_epochs": epochs,
        "batch_size": 8 if small else 2,
        "gradient_accumulation_steps": 1 if small else 8,
        "gradient_checkpointing": not small,
        # Rounding costs small models most. It needs more memory: a second copy of the base, with QLoRA twice its size.
        "int4_aware": is_small_int4
        and (answers.method == "qlora" or (answers.method, answers.target) == ("lora", "cpu")),
        # An answer of many tokens is right if all are: rounding costs it more than a label.
        "int4_calibrated": is_small_int4 and answers.target == "cpu" and answers.task != "classification",
    }


def text_template_for(answers: Answers, columns: Columns, originals: Mapping[str, str]) -> str:
    """Return the template that turns the columns of a row into text; `originals` are the names in the data.

    Raises:
        UsageError: The user's template has no prompt, or names a column that the data lacks.
    """
    template = answers.prompt_template
    if template == "plain" and answers.task != "chat":
        return _plain(columns, originals)
    if template in ("plain", "chat"):
        return _model_format(catalog().format_of(answers.model), columns, originals)
    template = template.replace("\\n", "\n")  # so that a template can be typed in any shell
    for new, old in originals.items():
        template = template.replace(f"{{{old}}}", f"{{{new}}}")
    try:
        parsed = PromptTemplate.from_text(template)
    except TemplateError as e:
        raise UsageError(f"--prompt-template {e}", fix=_TEMPLATE_FIX) from e
    if not parsed.inputs:
        raise UsageError(
            "--prompt-template needs at least two columns: the prompt, and last the answer", fix=_TEMPLATE_FIX
        )
    available = (*columns.inputs, columns.answer)
    for column in parsed.columns:
        if column not in available:
            raise UsageError(
                f"--prompt-template names the column `{column}`, which is not in the data",
                fix=f"the columns are {', '.join(available)}",
            )
    return template


def _optional(text_template: str, empty: Sequence[str]) -> list[str]:
    """Return the columns of `empty` whose section of the template can be omitted: lines of their own."""
    parts = list(string.Formatter().parse(text_template))
    optional = []
    for (before, column, _, _), (after, *_) in pairwise(parts):
        starts_line = before.startswith("\n") or (column == parts[0][1] and "\n" not in before)
        if column is not None and column in empty and starts_line and after.startswith(("\n", "<")):
            optional.append(column)
    return optional


def _plain(columns: Columns, originals: Mapping[str, str]) -> str:
    if columns.inputs == ("phrase",) and columns.answer == "tone":
        return "### Text: {phrase}\n### The tone is:\n{tone}"
    titles = {c: _title(c, originals) for c in (*columns.inputs, columns.answer)}
    if any(key_of(c) == "instruction" for c in columns.inputs):  # as in Alpaca's prompts
        parts = [f"{{{c}}}" if key_of(c) == "system" else f"### {titles[c]}\n{{{c}}}" for c in columns.inputs]
        return "\n\n".join([*parts, f"### Response:\n{{{columns.answer}}}"])
    parts = [f"### {titles[c]} {{{c}}}" for c in columns.inputs]
    return "\n".join([*parts, f"### {titles[columns.answer]}", f"{{{columns.answer}}}"])


def _model_format(prompt_format: PromptFormat, columns: Columns, originals: Mapping[str, str]) -> str:
    if not prompt_format.prompt:
        return _plain(columns, originals)
    prompt = "\n".join(f"{_title(c, originals)} {{{c}}}" for c in columns.inputs)
    if len(columns.inputs) == 1:
        prompt = "{" + columns.inputs[0] + "}"
    return prompt_format.prompt.format(prompt) + "{" + columns.answer + "}" + prompt_format.stop


def _title(column: str, originals: Mapping[str, str]) -> str:
    """Return the heading of a column: its name in the data, and a colon unless that ends a sentence."""
    words = " ".join(originals.get(column, "").split())
    if not any(c.isalpha() for c in words):
        words = column.replace("_", " ").capitalize()
    title = words.replace("{", "{{").replace("}", "}}")
    return title if title[-1] in ":?!." else f"{title}:"


def data_note(columns: Columns, source: HubData | LocalData) -> str:
    """Return a line on what the data holds: rows, columns, labels."""
    if isinstance(source, HubData):
        shown = (
            " + ".join(columns.inputs) + f" → {columns.answer}" if columns.kind == "columns" else f"`{columns.answer}`"
        )
        return f"data: {source.id} on the Hub, {shown}; `phi-scaffold data check` downloads and checks it"
    if columns.kind == "chat":
        names = dict.fromkeys([*columns.inputs, columns.answer])
        return f"data: {_count(columns.rows, 'conversation', 'conversations')} in `{'`, `'.join(names)}`"
    if columns.kind == "text":
        return f"data: {_count(columns.rows, 'row', 'rows')} of free text in `{columns.answer}`"
    shown = ", ".join(textwrap.shorten(label, _LONGEST_LABEL, placeholder="…") for label in columns.labels[:8])
    labels = f", {len(columns.labels)} label{'s' * (len(columns.labels) > 1)}: {shown}" if columns.labels else ""
    labels += ", …" if len(columns.labels) > 8 else ""
    return f"data: {_count(columns.rows, 'row', 'rows')}, {' + '.join(columns.inputs)} → {columns.answer}{labels}"


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"


def _unused_notes(columns: Columns) -> list[str]:
    """Return notes on rows and columns that are not used."""
    notes = []
    for name, value in columns.filters.items():
        rows = f"{columns.filtered} of {columns.rows + columns.filtered} rows"
        notes.append(f"{rows} are not used, because their `{name}` is not {json.dumps(value)} (`col_filters`)")
    if columns.unused:
        unused = ", ".join(
            (f"`{name}`" if name.strip() else "an unnamed column") + (f" ({reason})" if reason else "")
            for name, reason in columns.unused
        )
        notes.append(f"not used: {unused}; --columns selects others")
    return notes


def _form_notes(source: LocalData) -> list[str]:
    """Return notes on files that are not read as most tools write them, and on what Olive cannot read."""
    first, notes = source.forms[0], []
    options = first.options
    unremarkable = {"sep" if options.sep == "\t" else "", "encoding" if options.encoding == WINDOWS else ""}
    if options.format == "xlsx" or set(first.keys) - unremarkable:
        notes.append(f"{source.read[0].name}: {first.text}")
    notes += [remark for form in source.forms for remark in form.remarks]
    if not first.is_read_by_olive:
        notes.append(f"Olive cannot read {source.read[0].name}; save it as .csv or .jsonl if Olive is to read it, too")
    return notes


def _chat_notes(answers: Answers, needs_template: bool, format_name: str) -> list[str]:
    if answers.prompt_template not in ("plain", "chat"):
        raise UsageError(
            "--prompt-template is for data in columns, and this data holds conversations",
            fix="remove it: the chat template of the model formats conversations",
        )
    return [f"{answers.model} has no chat template; using the `{format_name}` format"] if needs_template else []


def task_of(columns: Columns) -> str:
    """Return the task that data of this form is usually for."""
    if columns.kind != "columns":
        return "chat" if columns.kind == "chat" else "generation"
    if columns.labels:
        return "classification"
    if columns.answer.casefold() in ("summary", "highlights"):
        return "summarization"
    if {"context", "question"} <= {c.casefold() for c in columns.inputs}:
        return "question-answering"
    return "extraction" if columns.objects else "generation"
