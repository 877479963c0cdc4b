"""The answers that describe a new project, and the values that they may take."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from phi_runtime.config.supported_precisions import SUPPORTED_PRECISIONS
from phi_runtime.config.tasks import TASKS
from phi_runtime.core.errors import UsageError
from phi_runtime.core.project import WINDOWS_DEVICES
from phi_runtime.data.columns import Columns
from phi_runtime.data.other_purposes import as_flag
from phi_runtime.models.memory import Method

if TYPE_CHECKING:
    from phi_scaffold.new.data_source import HubData, LocalData

METHODS: tuple[Method, ...] = get_args(Method)
_PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "directml": "DmlExecutionProvider",
    "azureml": "CPUExecutionProvider",  # trains there, and the ONNX model is for this machine
}
TARGETS = tuple(_PROVIDERS)
PRECISIONS = {
    target: tuple(reversed(SUPPORTED_PRECISIONS[provider])) for target, provider in _PROVIDERS.items()
}  # smallest first
PRECISION = "int4"  # the default
CHOICES = {"task": TASKS, "method": METHODS, "target": TARGETS, "precision": PRECISIONS["cuda"]}  # values by flag
OTHER_WORDS = {  # usual names of these values
    "task": {
        "classify": "classification",
        "conversation": "chat",
        "qa": "question-answering",
        "summary": "summarization",
        "summarize": "summarization",
        "extract": "extraction",
        "generate": "generation",
    },
    "method": {"adapter": "lora", "full-finetune": "full", "fullfinetune": "full", "full-fine-tuning": "full"},
    "target": {"gpu": "cuda", "nvidia": "cuda", "dml": "directml", "azure": "azureml", "aml": "azureml"},
    "precision": {"bfloat16": "bf16", "float16": "fp16", "half": "fp16", "float32": "fp32"},
}

_LONGEST_NAME = 64


@dataclass(frozen=True)
class FormFlags:
    """The form of data files that flags name; None is detected.

    Attributes:
        sep: Separator of the fields of a CSV file.
        encoding: Encoding of a text file.
        header: The first row of a table has the column names.
        sheet: Sheet of a workbook.
        field: Key of a JSON object that holds the rows.
    """

    sep: str | None = None
    encoding: str | None = None
    header: bool | None = None
    sheet: str | None = None
    field: str | None = None

    @property
    def flags(self) -> list[str]:
        """The flags of `new` that set them."""
        words = [(f"--{key}", value) for key, value in asdict(self).items() if isinstance(value, str)]
        header = [] if self.header is None else ["--header" if self.header else "--no-header"]
        return [*chain.from_iterable(words), *header]


@dataclass(frozen=True)
class Answers:
    """The user's choices.

    Attributes:
        data: The user's data: a file, a folder, a pattern, or OWNER/NAME[:SPLIT] on the Hub; None for the sample data.
        columns: Columns of that data to use, the answer last, or only one; empty to detect them.
        form: Form of the data files, as far as it is not to be detected.
        prompt_template: `plain`, `chat` (the format of the model), or a text with `{column}` placeholders.
        data_columns: Contents of the data, if it was read already.
    """

    model: str
    task: str = TASKS[0]
    method: str = METHODS[0]
    target: str = TARGETS[0]
    precision: str = PRECISION
    data: str | Path | None = None
    columns: tuple[str, ...] = ()
    prompt_template: str = "plain"
    form: FormFlags = FormFlags()
    data_columns: Columns | None = None

    @cached_property
    def source(self) -> HubData | LocalData | None:
        """The user's data, as `data_source` finds it; None for the sample data."""
        from phi_scaffold.new.data_source import data_source

        return data_source(self.data, self.form) if self.data else None


def check_name(folder: Path) -> str:
    """Return the name of the project in `folder`.

    Raises:
        UsageError: The name is not portable; the fix is one that is.
    """
    name = folder.name
    reason = ""
    if not name:
        reason = "it is empty"
    elif name[0] in "-." or name[-1] in ". ":
        reason = "it starts with `-` or `.`, or ends with `.` or a space"
    elif not re.fullmatch(r"[\w .-]+", name):
        reason = "only letters, digits, spaces, `.`, `-` and `_` are allowed"
    elif name.partition(".")[0].casefold() in WINDOWS_DEVICES:
        reason = "it is a device on Windows"
    elif len(name) > _LONGEST_NAME:
        reason = f"it is longer than {_LONGEST_NAME} characters"
    if reason:
        better = re.sub(r"[^\w.-]+", "-", name).strip("-. ")[:_LONGEST_NAME] or "my-model"
        better = f"my-{better}" if better.partition(".")[0].casefold() in WINDOWS_DEVICES else better
        raise UsageError(f"`{name}` cannot be a project name: {reason}", fix=f"try `phi-scaffold new {better}`")
    return name


def command_line(folder: Path, answers: Answers, config: Path | None = None) -> str:
    """Return the command that creates the same project without questions; `config` is the existing config in it."""
    words = ["phi-scaffold", "new", str(folder)]
    if config:
        return _joined([*words, "--config", str(config)])
    words += ["--model", answers.model, "--task", answers.task, "--method", answers.method]
    words += ["--target", answers.target, "--precision", answers.precision]
    if answers.data:
        words += ["--data", str(answers.data)]
    words += answers.form.flags
    if answers.columns:
        words += ["--columns", as_flag(answers.columns)]
    if answers.prompt_template != "plain":
        words += ["--prompt-template", answers.prompt_template.replace("\n", "\\n")]
    words.append("--yes")
    return _joined(words)


def _joined(words: list[str]) -> str:
    return subprocess.list2cmdline(words) if sys.platform == "win32" else shlex.join(words)
