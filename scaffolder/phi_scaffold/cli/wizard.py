"""The questions of `new` on a terminal: one at a time, repeated after a slip, with a way back and a summary at the end."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from rich.text import Text

from phi_runtime.core.errors import PhiError, UsageError
from phi_runtime.core.units import size
from phi_runtime.data.columns import Columns, UnknownAnswer
from phi_runtime.models.memory import Method
from phi_scaffold.new.answers import PRECISIONS, TARGETS, TASKS, Answers
from phi_scaffold.new.base_models import base_model, find_base_model
from phi_scaffold.new.catalog import DEFAULT, BaseModel, catalog
from phi_scaffold.new.derive import data_note
from phi_scaffold.new.example import example_of
from phi_scaffold.new.fit import METHOD_NAMES, fit_notes, this_trainer
from phi_scaffold.new.questions import answers_from, choice
from phi_scaffold.show.terminal import console, fitting_table, prose

if TYPE_CHECKING:
    from rich.console import Console

T = TypeVar("T")

BACK = "back"
_TASKS = {
    "classification": "one of a few labels for a text",
    "chat": "conversations of several turns",
    "question-answering": "an answer from a given text",
    "summarization": "a short version of a text",
    "extraction": "a JSON record from a text",
    "generation": "any other text",
}
_METHODS: Mapping[Method, str] = {
    "lora": "trains a small adapter; the usual choice",
    "qlora": "an adapter over a 4-bit base; takes the least memory",
    "full": "trains all weights; takes the most memory",
}
_TARGETS = {
    "cpu": "any computer, without a GPU",
    "cuda": "an NVIDIA GPU",
    "directml": "any GPU on Windows",
    "azureml": "trains on a GPU of Azure ML; the model is for the CPU of any computer",
}
_PRECISIONS = {
    "int4": "smallest and fastest",
    "int8": "twice the size, closer to the trained model",
    "bf16": "half of the trained size, on an NVIDIA GPU",
    "fp16": "half of the trained size, on a GPU",
    "fp32": "the trained weights, unrounded",
}


class _Back(Exception):
    """The user wants to answer the question before."""


class Wizard:
    """Prompts for the answers that no flag gives.

    Args:
        flags: Answers by the name of their flag.
        folder: Folder of the new project, for the summary.
    """

    def __init__(self, flags: Mapping[str, Any], folder: Path) -> None:
        self._flags = dict(flags)
        self._folder = folder
        self._columns: Columns | None = None  # of the user's data, which is read once
        self._out: Console = console(stderr=True)
        self._trainer = this_trainer()

    def answers(self) -> Answers:
        """Ask, and return the answers that the user confirms.

        Raises:
            PhiError: A flag has a value that is not usable.
            KeyboardInterrupt: The user stops.
        """
        self._columns = self._answers().data_columns  # what is wrong with a flag is no answer to correct here
        with suppress(ImportError):
            import readline  # noqa: F401  # line editing in input()
        every: dict[str, Callable[[], Any]] = {
            "data": self._data,
            "task": self._task,
            "model": self._model,
            "method": self._method,
            "target": self._target,
            "precision": self._precision,
        }
        questions = [flag for flag in every if flag not in self._flags]
        if questions:
            self._print(
                "[dim]Enter takes the value in brackets, `back` returns to the question before, Ctrl-C stops.[/]"
            )
        at = 0
        while True:
            try:
                if at < len(questions):
                    self._flags[questions[at]] = every[questions[at]]()
                    at += 1
                elif self._confirmed(answers := self._answers()):
                    return answers
                else:
                    at = 0
            except _Back:
                at = max(at - 1, 0)
                if at < len(questions):
                    self._flags.pop(questions[at], None)

    # -- questions ---------------------------------------------------------------------------------------------------------

    def _data(self) -> str | None:
        self._print("\n[bold]Data[/] to learn from: a file, folder or pattern, or OWNER/NAME on the Hugging Face Hub")
        self._flags.pop("columns", None)
        self._columns = None
        return self._read("Data", "sample data", self._usable_data)

    def _usable_data(self, written: str) -> str | None:
        if written == "sample data":
            return None
        try:
            self._show_data(written)
        except UnknownAnswer as e:
            self._failed(e)
            self._read("Columns to use, the answer last", "", lambda columns: self._show_data(written, columns))
        return written

    def _show_data(self, written: str, columns: str = "") -> None:
        chosen = {"columns": columns} if columns else {}
        answers = answers_from({**self._flags, "data": written, **chosen})
        assert answers.data_columns
        assert answers.source
        self._flags |= chosen
        self._columns = answers.data_columns
        self._print(f"  {data_note(answers.data_columns, answers.source)}", markup=False)
        if example := example_of(answers):
            self._print("  A row as the model sees it:", style="dim")
            self._print("\n".join(f"    {line}" for line in example.splitlines()), markup=False)

    def _task(self) -> str:
        self._print("\n[bold]Task[/] to learn")
        return self._choose("task", {task: _TASKS[task] for task in TASKS}, self._answers().task)

    def _model(self) -> str:
        self._print(f"\n[bold]Base model[/], and the methods that fit this {self._trainer.name}")
        models = list(catalog().models.values())
        columns = {
            ">": [f"{number}." for number in range(1, len(models) + 1)],
            "!model": [model.id for model in models],
            **{name: [self._fits(model, method) for model in models] for method, name in METHOD_NAMES.items()},
            ">size": [f"{model.parameters / 1e9:.2f} B" for model in models],
            "license": [model.license + (" (gated)" if model.gated else "") for model in models],
        }
        self._out.print(fitting_table(columns, self._out))
        names = [model.id for model in models]
        self._print("Type a number, a name, an id or address of the Hub, or a folder.", style="dim")
        return self._read("Model", DEFAULT, lambda written: find_base_model(_numbered(written, names)))

    def _fits(self, model: BaseModel, method: Method) -> str:
        fits = self._trainer.needed_bytes(model, method) <= self._trainer.memory_bytes
        return "[green]✓[/]" if fits else "[red]✗[/]"

    def _method(self) -> str:
        self._print("\n[bold]Method[/] of training, and the memory that it takes")
        model = base_model(find_base_model(str(self._flags.get("model") or DEFAULT)))
        about = dict(_METHODS)
        if model:
            needed = {method: self._trainer.needed_bytes(model, method) for method in _METHODS}
            for method, bytes_ in needed.items():
                fits = "" if bytes_ <= self._trainer.memory_bytes else ", does not fit this machine"
                about[method] += f" (about {size(bytes_)}{fits})"
        return self._choose("method", about, "lora")

    def _target(self) -> str:
        self._print("\n[bold]Hardware[/] to run on")
        default = "cuda" if self._trainer.device == "gpu" else "cpu"
        return self._choose("target", {target: _TARGETS[target] for target in TARGETS}, default)

    def _precision(self) -> str:
        self._print("\n[bold]Precision[/] of the ONNX model")
        supported = PRECISIONS[choice("target", self._flags.get("target") or "cpu")]
        return self._choose("precision", {name: _PRECISIONS[name] for name in supported}, "int4")

    def _answers(self) -> Answers:
        return answers_from(self._flags, self._columns)

    def _confirmed(self, answers: Answers) -> bool:
        self._print(f"\n[bold]Create[/] {self._folder}")
        for name in ("data", "task", "model", "method", "target", "precision"):
            self._print(f"  {name:10} {getattr(answers, name) or 'sample data'}", markup=False)
        for note in fit_notes(answers, base_model(answers.model)):
            if note.startswith("warning"):
                self._print(f"  {note}", style="yellow", markup=False)
        self._print("`no` starts again, and `back` returns to the last question.", style="dim")
        return self._read("Create it?", "yes", _yes_or_no)

    # -- input and output --------------------------------------------------------------------------------------------------

    def _choose(self, flag: str, options: Mapping[Any, str], default: str) -> str:
        """List options with numbers, and return the one that is typed: its number, or in words."""
        names: Sequence[str] = list(options)
        wide = max(map(len, names))
        in_one_line = wide + max(map(len, options.values())) + 8 <= self._out.width
        for number, (name, about) in enumerate(options.items(), 1):
            gap = " " * (wide - len(name) + 2) if in_one_line else "\n     "
            self._print(f" {number:2}. {name}{gap}[dim]{about}[/]")

        def chosen(written: str) -> str:
            value = choice(flag, _numbered(written, names))
            if value not in names:
                raise UsageError(f"`{value}` does not run there", fix=f"choose one of {', '.join(names)}")
            return value

        return self._read(flag.capitalize(), default, chosen)

    def _read(self, question: str, default: str, parse: Callable[[str], T]) -> T:
        """Return what `parse` makes of what is typed, or of the default; ask again while it raises PhiError.

        The end of input stops as Ctrl-C does.
        """
        while True:
            shown = f"{question} [{default}]: " if default else f"{question}: "
            try:
                written = _typed(shown).strip()
            except EOFError:
                raise KeyboardInterrupt from None
            if written.casefold() == BACK:
                raise _Back
            try:
                return parse(written or default)
            except PhiError as e:
                self._failed(e)

    def _failed(self, error: PhiError) -> None:
        self._print(f"  {error}", style="red", markup=False)
        if error.fix:
            self._print(f"  {error.fix}", markup=False)

    def _print(self, text: str, *, style: str = "", markup: bool = True) -> None:
        shown = Text.from_markup(text, style=style, emoji=False) if markup else Text(text, style)
        prose(shown, self._out)


def _typed(shown: str) -> str:
    if sys.stdout.isatty():  # readline edits the line, and writes there
        return input(shown)
    print(shown, end="", file=sys.stderr, flush=True)
    return input()


def _numbered(written: str, names: Sequence[str]) -> str:
    """Return the name whose number is typed, else what is typed. Raises UsageError for a number without a name."""
    if not written.isdecimal():
        return written
    if not 1 <= int(written) <= len(names):
        raise UsageError(f"there is no choice {written}", fix=f"type 1 to {len(names)}, or a name")
    return names[int(written) - 1]


def _yes_or_no(written: str) -> bool:
    if written.casefold() not in ("y", "yes", "n", "no"):
        raise UsageError(f"`{written}` is not an answer", fix="type yes, no or back")
    return written.casefold() in ("y", "yes")
