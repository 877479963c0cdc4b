"""`new`: answers in, project out, over copier. Works offline and without git."""

from __future__ import annotations

import gc
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from phi_runtime.config.file_formats import format_of
from phi_runtime.core.artifacts import free_name
from phi_runtime.core.errors import Conflict, UsageError, WorkFailed
from phi_runtime.core.suggestions import did_you_mean
from phi_runtime.data.columns import Columns, find_columns
from phi_runtime.data.template import PromptTemplate, TemplateFault
from phi_scaffold import __version__
from phi_scaffold.new.catalog import PromptFormat, catalog

TASKS = ("classification", "chat", "question-answering", "summarization", "extraction", "generation")
METHODS = ("lora", "qlora", "full")
TARGETS = ("cpu", "cuda", "directml")
PRECISIONS = {
    "cpu": ("int4", "int8", "fp32"),
    "cuda": ("int4", "int8", "fp16", "bf16", "fp32"),
    "directml": ("int4", "fp16"),
}
# Of the sample data: what is asked and the answer, rows, and the longest row and answer in characters.
SAMPLES = {
    "classification": Columns(("phrase",), "tone", 600, (), longest=127, longest_answer=8),
    "chat": Columns(("messages",), "messages", 170, (), "chat", longest=422, longest_answer=139),
    "question-answering": Columns(("context", "question"), "answer", 180, (), longest=267, longest_answer=29),
    "summarization": Columns(("text",), "summary", 150, (), longest=466, longest_answer=94),
    "extraction": Columns(("text",), "record", 180, (), longest=224, longest_answer=103),
    "generation": Columns(("note",), "message", 170, (), longest=141, longest_answer=100),
}
SAMPLE_FILE = "train.jsonl"

_WINDOWS_DEVICES = {"con", "prn", "aux", "nul", *(f"{d}{n}" for d in ("com", "lpt") for n in range(1, 10))}
_LONGEST_NAME = 64


@dataclass(frozen=True)
class Answers:
    """What the user chose. `data` is the user's own file, None for the sample; `columns` names its columns, the answer last;
    `prompt_template` is plain, chat (the model's own format) or a text with `{column}`s. `found` is what the file holds, where it
    was read already."""

    model: str
    task: str = "classification"
    method: str = "lora"
    target: str = "cpu"
    precision: str = "int4"
    data: Path | None = None
    columns: tuple[str, ...] = ()
    prompt_template: str = "plain"
    found: Columns | None = None


@dataclass(frozen=True)
class Emitted:
    """A finished project: its folder, the files in it, and what the user should know of how it was derived."""

    folder: Path
    files: tuple[str, ...]
    notes: tuple[str, ...] = field(default_factory=tuple)
    backed_up: tuple[str, ...] = field(default_factory=tuple)


def check_name(folder: Path) -> str:
    """The project's name, the last part of `folder`. Raises UsageError, with a name that would do, when it cannot be one."""
    name = folder.name
    reason = ""
    if not name:
        reason = "is empty"
    elif name[0] in "-." or name[-1] in ". ":
        reason = "starts with `-` or `.`, or ends with `.` or a blank"
    elif not re.fullmatch(r"[\w .-]+", name):
        reason = "holds something other than letters, digits, blanks, `.`, `-` and `_`"
    elif name.partition(".")[0].casefold() in _WINDOWS_DEVICES:
        reason = "is a device on Windows"
    elif len(name) > _LONGEST_NAME:
        reason = f"is longer than {_LONGEST_NAME} characters"
    if reason:
        better = re.sub(r"[^\w.-]+", "-", name).strip("-. ")[:_LONGEST_NAME] or "my-model"
        better = f"my-{better}" if better.partition(".")[0].casefold() in _WINDOWS_DEVICES else better
        raise UsageError(f"`{name}` cannot name a project: it {reason}", fix=f"try `phi-scaffold new {better}`")
    return name


def new(folder: Path, answers: Answers, *, force: bool = False, dry_run: bool = False) -> Emitted:
    """Emits a project into `folder`, which must be absent or empty; with `force` it is filled in, files in the way being kept
    as *.bak. With `dry_run` nothing is written.

    Raises UsageError, DataError for the user's data file, and Conflict.
    """
    folder = folder.absolute()
    name = check_name(folder)
    facts, notes = derive(answers)
    _refuse_conflict(folder, force)
    with tempfile.TemporaryDirectory(prefix=".phi-scaffold-", dir=_existing_parent(folder)) as temporary:
        tree = Path(temporary) / "project"
        _render(tree, {"project_name": name, **facts})
        if answers.data:
            shutil.copyfile(answers.data, tree / "datasets" / facts["data_file"])
        files = tuple(sorted(p.relative_to(tree).as_posix() for p in tree.rglob("*") if p.is_file()))
        if dry_run:
            return Emitted(folder, files, notes)
        try:
            return Emitted(folder, files, notes, _put(tree, folder, files))
        except OSError as e:
            raise WorkFailed(
                f"{folder} cannot be written: {e.strerror}", fix="check its rights and the space on its disk"
            ) from e


def derive(answers: Answers) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The answers to all of copier.yml's questions, and notes on what was found out from model and data."""
    notes: list[str] = []
    known = catalog().models.get(answers.model)
    if known is None:
        hint = did_you_mean(answers.model, catalog().models)
        notes.append(f"{answers.model} is not in the catalogue: what it needs is found when it is loaded{hint}")
    if answers.precision not in PRECISIONS[answers.target]:
        raise UsageError(
            f"`{answers.precision}` does not run on {answers.target}",
            fix=f"choose --precision {', '.join(PRECISIONS[answers.target])}",
        )
    if answers.data:
        columns = answers.found or find_columns(answers.data, answers.columns)
        notes.append(_columns_note(columns))
    else:
        columns = SAMPLES[answers.task]
    chat_template = ""
    text_template = ""
    if columns.kind == "chat":
        form = catalog().format_of(answers.model)
        chat_template = form.chat_template if known is not None and known.base else "own"
        notes += _chat_notes(answers, known is not None and known.base, form.name)
    elif columns.kind == "columns":
        text_template = text_template_for(answers, columns)
    small = known is not None and known.parameters < 500e6
    context = known.context if known else 2048
    return {
        "model": answers.model,
        "task": answers.task,
        "method": answers.method,
        "target": answers.target,
        "precision": answers.precision,
        "data_file": answers.data.name if answers.data else SAMPLE_FILE,
        "data_name": format_of(answers.data) if answers.data else "json",
        "rows": columns.kind,
        "text_template": text_template,
        "chat_template": chat_template,
        "text_column": columns.answer,
        "sample_data": answers.data is None,
        "target_modules": list(known.target_modules) if known else None,
        "learning_rate": 5e-5 if answers.method == "full" else known.learning_rate if known else 2e-4,
        "num_train_epochs": _epochs(answers.task, columns.rows),
        "batch_size": 8 if small else 2,
        "gradient_accumulation_steps": 1 if small else 8,
        "gradient_checkpointing": not small,
        # Takes a second copy of the base, and the smaller a model the more rounding costs it.
        "int4_aware": small and (answers.method, answers.precision, answers.target) == ("lora", "int4", "cpu"),
        "max_seq_len": _max_seq_len(columns, text_template, context),
        "max_new_tokens": 8 if answers.task == "classification" else _power_of_two(columns.longest_answer / 2, 16, 256),
        "made_by_new": True,
        "phi_scaffold_version": __version__,
        "phi_scaffold_requirement": own_requirement(),
    }, tuple(notes)


def text_template_for(answers: Answers, columns: Columns) -> str:
    """The text of one row. Raises UsageError for a template of the user's that cannot be split or names other columns."""
    wanted = answers.prompt_template
    if wanted == "plain" and answers.task != "chat":
        return _plain(columns)
    if wanted in ("plain", "chat"):
        return _chat(catalog().format_of(answers.model), columns)
    wanted = wanted.replace("\\n", "\n")  # so that a template can be typed in any shell
    try:
        template = PromptTemplate.from_text(wanted)
    except TemplateFault as e:
        raise UsageError(
            f"--prompt-template {e}", fix="give plain, chat, or a text like '{question}\\n{answer}'"
        ) from e
    if not template.inputs:
        raise UsageError(
            "--prompt-template needs at least two columns: what is asked, and last the answer",
            fix="give plain, chat, or a text like '{question}\\n{answer}'",
        )
    have = (*columns.inputs, columns.answer)
    for column in template.columns:
        if column not in have:
            raise UsageError(
                f"--prompt-template names the column `{column}`, which the data has not",
                fix=f"its columns are {', '.join(have)}",
            )
    return wanted


def _plain(columns: Columns) -> str:
    if columns.inputs == ("phrase",) and columns.answer == "tone":
        return "### Text: {phrase}\n### The tone is:\n{tone}"
    parts = [f"### {_title(c)}: {{{c}}}" for c in columns.inputs]
    return "\n".join([*parts, f"### {_title(columns.answer)}:", f"{{{columns.answer}}}"])


def _chat(form: PromptFormat, columns: Columns) -> str:
    if not form.prompt:
        return _plain(columns)
    asked = (
        "{" + columns.inputs[0] + "}"
        if len(columns.inputs) == 1
        else "\n".join(f"{_title(c)}: {{{c}}}" for c in columns.inputs)
    )
    return form.prompt.format(asked) + "{" + columns.answer + "}" + form.stop


def _title(column: str) -> str:
    return column.replace("_", " ").capitalize()


def _columns_note(columns: Columns) -> str:
    if columns.kind == "chat":
        return f"data: {columns.rows} conversations in `{columns.answer}`"
    if columns.kind == "text":
        return f"data: {columns.rows} rows of free text in `{columns.answer}`"
    labels = f", {len(columns.labels)} labels: {', '.join(columns.labels[:8])}" if columns.labels else ""
    labels += ", …" if len(columns.labels) > 8 else ""
    return f"data: {columns.rows} rows, {' + '.join(columns.inputs)} → {columns.answer}{labels}"


def _chat_notes(answers: Answers, base: bool, form: str) -> list[str]:
    if answers.prompt_template not in ("plain", "chat"):
        raise UsageError(
            "--prompt-template is for rows with columns, and these are conversations",
            fix="leave it out: the chat template of the model makes their text",
        )
    return [f"{answers.model} has no chat template of its own: it gets the one called {form}"] if base else []


def _epochs(task: str, rows: int) -> int:
    """A label is learnt in one or two passes over the data, a way of writing in more."""
    return (1 if task == "classification" else 2) * (1 if rows > 1000 else 2)


def _max_seq_len(columns: Columns, text_template: str, context: int) -> int:
    """Tokens that hold the longest row, at two characters a token; a chat template adds some of its own."""
    most = min(2048, context)
    if columns.kind == "text":
        return min(512, most)
    around = 200 if columns.kind == "chat" else len(text_template)
    return _power_of_two((columns.longest + around) / 2, 128, most)


def task_of(columns: Columns) -> str:
    """The task that rows of this kind are usually for."""
    if columns.kind != "columns":
        return "chat" if columns.kind == "chat" else "generation"
    if columns.labels:
        return "classification"
    if columns.answer.casefold() in ("summary", "highlights"):
        return "summarization"
    return "question-answering" if {"context", "question"} <= {c.casefold() for c in columns.inputs} else "generation"


def _power_of_two(wanted: float, least: int, most: int) -> int:
    size = least
    while size < wanted and size < most:
        size *= 2
    return size


def own_requirement() -> str:
    """How pip installs the phi-scaffold that runs here: a release, a git commit, an archive or a local checkout (PEP 610)."""
    try:
        distribution = metadata.distribution("phi-scaffold")
    except metadata.PackageNotFoundError:  # run from a checkout that is not installed
        return f"-e {Path(__file__).resolve().parents[3].as_uri()}"
    origin = distribution.read_text("direct_url.json")
    if not origin:
        return f"phi-scaffold=={distribution.version}"
    direct = json.loads(origin)
    url: str = direct["url"]
    if "dir_info" in direct and direct["dir_info"].get("editable"):
        return f"-e {url}"
    if "vcs_info" in direct:
        return f"phi-scaffold @ {direct['vcs_info']['vcs']}+{url}@{direct['vcs_info']['commit_id']}"
    return f"phi-scaffold @ {url}"


def template_root(temporary: Path) -> Path:
    """The folder with copier.yml: inside the installed package; from a checkout, a copy in `temporary`, because copier would
    take the last commit of a git repository and not what lies there."""
    packed = Path(__file__).parents[1] / "_template"
    if (packed / "copier.yml").is_file():
        return packed
    checkout, copy = Path(__file__).resolve().parents[3], temporary / "template"
    shutil.copytree(checkout / "template", copy / "template")
    shutil.copyfile(checkout / "copier.yml", copy / "copier.yml")
    return copy


def _render(tree: Path, answers: dict[str, Any]) -> None:
    gc.disable()  # copier and what it imports are there to stay: looking through them for garbage is a fifth of the time of `new`
    from copier import run_copy
    from plumbum import local

    try:
        # Without git on the path: copier would ask it about every single file, and the tree is in no repository yet.
        with local.env(PATH=os.devnull):
            run_copy(str(template_root(tree.parent)), tree, data=answers, defaults=True, quiet=True, overwrite=True)
    except Exception as e:  # copier raises ValueError, AssertionError and its own kinds alike
        raise WorkFailed(
            f"the template could not be rendered: {e}", fix="report this with the command that you ran"
        ) from e
    finally:
        gc.freeze()
        gc.enable()


def _existing_parent(folder: Path) -> Path:
    """The nearest folder above `folder` that exists. Raises UsageError when that is a file or cannot be written to."""
    parent = next(p for p in folder.parents if p.exists())
    if not parent.is_dir():
        raise UsageError(f"{parent} is a file, not a folder", fix="choose another place")
    if not os.access(parent, os.W_OK):
        raise UsageError(f"{parent} cannot be written to", fix="choose another place")
    return parent


def _refuse_conflict(folder: Path, force: bool) -> None:
    if folder.is_file():
        raise Conflict(f"{folder} is a file", fix="choose another name")
    if force or not folder.is_dir():
        return
    there = sorted(p.name + ("/" if p.is_dir() else "") for p in folder.iterdir() if p.name != ".git")
    if there:
        some = ", ".join(there[:8]) + (f" and {len(there) - 8} more" if len(there) > 8 else "")
        raise Conflict(
            f"{folder} is not empty: it holds {some}",
            fix="choose another name, or fill it in with --force (files in the way are kept as *.bak)",
        )


def _put(tree: Path, folder: Path, files: Sequence[str]) -> tuple[str, ...]:
    """Moves the rendered tree into place: in one rename where nothing is there yet."""
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        tree.replace(folder)
        return ()
    backed_up = []
    for name in files:
        source, target = tree / name, folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists():
            if target.is_file() and target.read_bytes() == source.read_bytes():
                continue
            target.replace(free_name(target))
            backed_up.append(name)
        source.replace(target)
    return tuple(backed_up)


def init_git(folder: Path) -> bool:
    """Makes `folder` a git repository, unless git is not installed or it lies in one already."""
    if not shutil.which("git"):
        return False
    inside = subprocess.run(
        ["git", "-C", str(folder), "rev-parse", "--is-inside-work-tree"], capture_output=True, check=False
    )
    if inside.returncode == 0:
        return False
    return subprocess.run(["git", "init", "--quiet", str(folder)], capture_output=True, check=False).returncode == 0


def command_line(folder: Path, answers: Answers) -> str:
    """The one command that makes the same project again without questions."""
    import shlex

    words = ["phi-scaffold", "new", str(folder)]
    words += ["--model", answers.model, "--task", answers.task, "--method", answers.method]
    words += ["--target", answers.target, "--precision", answers.precision]
    if answers.data:
        words += ["--data", str(answers.data)]
    if answers.columns:
        words += ["--columns", ",".join(answers.columns)]
    if answers.prompt_template != "plain":
        words += ["--prompt-template", answers.prompt_template.replace("\n", "\\n")]
    words.append("--yes")
    return subprocess.list2cmdline(words) if sys.platform == "win32" else shlex.join(words)
