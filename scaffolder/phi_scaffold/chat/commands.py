"""The commands of a chat: what begins with a slash."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from phi_runtime.core.errors import Conflict, UsageError
from phi_runtime.core.suggestions import did_you_mean
from phi_runtime.core.units import count
from phi_scaffold.show.terminal import note

if TYPE_CHECKING:
    from phi_runtime.core.project import ProjectFolder
    from phi_runtime.pipeline.conversation import Conversation
    from phi_runtime.pipeline.session import Session
    from phi_scaffold.cli.options import Flags

MAX_TEMPERATURE = 5.0
DEFAULT_FILE = "chat.jsonl"
_HINT = "list the commands with /help, or begin the message with //"


class Command(NamedTuple):
    """A command: its argument as `/help` shows it ("" for none), its description, and its function."""

    argument: str
    description: str
    run: Callable[[ChatCommands, str], None]


class ChatCommands:
    """The commands, on one conversation.

    Args:
        conversation: The conversation.
        project: The project, whose models `/model` lists.
        flags: The flags that the current model was opened with.
    """

    def __init__(self, conversation: Conversation, project: ProjectFolder, flags: Flags) -> None:
        self.conversation, self.project, self.flags = conversation, project, flags

    def run(self, name: str, argument: str) -> None:
        """Run the command `name`.

        Raises:
            EOFError: The command ends the chat.
            PhiError: There is no such command, or its argument is not valid.
        """
        command = COMMANDS.get(ALIASES.get(name, name))
        if command is None:
            near = did_you_mean(f"/{name}", [f"/{known}" for known in (*COMMANDS, *ALIASES)])
            raise UsageError(f"unknown command `/{name}`{near}", fix=_HINT)
        if argument and not command.argument:
            raise UsageError(f"`/{name}` accepts no argument", fix=_HINT)
        command.run(self, argument)

    def help(self, _: str) -> None:
        """List the commands."""
        width = max(len(f"/{name} {command.argument}") for name, command in COMMANDS.items())
        for name, command in COMMANDS.items():
            note(f"{f'/{name} {command.argument}':<{width}}  {command.description}", hanging=width + 2)
        note('Several lines: between """ and """, with \\ at the end of a line, or pasted.')
        note("A message that starts with a slash: begin with //. Ctrl-C stops an answer, Ctrl-D ends the chat.")

    def exit(self, _: str) -> None:
        """End the chat."""
        raise EOFError

    def clear(self, _: str) -> None:
        """Forget the conversation."""
        self.conversation.clear()
        note("the conversation is empty")

    def switch_model(self, name: str) -> None:
        """List the models, or continue with another one."""
        from phi_runtime.pipeline.session import choose_model

        choice = choose_model(self.project, name or self.conversation.session.name, self.flags.overrides())
        if name:
            self._open(replace(self.flags, model=name, adapter=None))
        note(f"model: {_listed(choice.shown, self.conversation.session.name)}")
        if name and self.conversation.session.generator.adapters:
            self.switch_adapter("")

    def switch_adapter(self, name: str) -> None:
        """List the adapters, or continue with another one."""
        folder = Path(name).expanduser()
        if name and name not in self.conversation.session.generator.adapters and folder.is_dir():
            self._open(replace(self.flags, model=self.conversation.session.name, adapter=str(folder)))
        elif name:
            self._continue(self.conversation.use(self.conversation.session.select_adapter(name)))
            self.flags = replace(self.flags, adapter=name)
        session = self.conversation.session
        note(f"adapter: {_listed((*session.generator.adapters, 'none'), session.adapter or 'none')}")

    def instruct(self, text: str) -> None:
        """Show, set or remove the system message."""
        if text:
            self.conversation.instruct("" if text == '""' else text)
        note(f"system message: {self.conversation.system or 'none'}")

    def set_temperature(self, text: str) -> None:
        """Show or set the temperature."""
        sampling = self.conversation.sampling
        if text:
            try:
                temperature = float(text)
            except ValueError:
                temperature = -1
            if not 0 <= temperature <= MAX_TEMPERATURE:
                what = f"the temperature `{text}` is not a number from 0 to {MAX_TEMPERATURE:g}"
                raise UsageError(what, fix="/temperature 0.7")
            sampling = self.conversation.sampling = replace(sampling, temperature=temperature)
        note(f"temperature: {sampling.temperature:g}")

    def save(self, argument: str) -> None:
        """Append the conversation to a data file."""
        rows = self.conversation.rows()
        if not rows:
            raise UsageError("there is no complete answer to save", fix="ask first")
        path = Path(argument.strip("\"'") or DEFAULT_FILE).expanduser()
        existed = _append(path, rows)
        cut = sum(not turn.complete for turn in self.conversation.turns)
        skipped = f"; {count(cut, 'cut answer')} not to be trained on" if cut else ""
        note(f"{'added' if existed else 'saved'} {count(len(rows), 'row')} to {path}{skipped}")

    def _open(self, flags: Flags) -> None:
        """Continue with the model and the adapter that `flags` name."""
        note(f"loading {flags.model} …")
        current = self.flags
        kept = self.conversation.switch(lambda: _opened(flags, self.project), lambda: _opened(current, self.project))
        self.flags = flags
        self._continue(kept)

    def _continue(self, kept: bool) -> None:
        if not kept:
            note("the conversation is empty: this model has another prompt format")


ALIASES = {"quit": "exit", "bye": "exit", "?": "help"}
COMMANDS = {
    "help": Command("", "list the commands", ChatCommands.help),
    "exit": Command("", "end the chat; also /quit, /bye", ChatCommands.exit),
    "clear": Command("", "forget the conversation, but not the system message", ChatCommands.clear),
    "model": Command("[NAME]", "list the models, or continue with another one", ChatCommands.switch_model),
    "adapter": Command(
        "[NAME]", "list the adapters, or continue with another one; none: without", ChatCommands.switch_adapter
    ),
    "system": Command("[TEXT]", 'show or set the system message; "" removes it', ChatCommands.instruct),
    "temperature": Command("[X]", "show or set the temperature; 0: the likeliest answer", ChatCommands.set_temperature),
    "save": Command("[FILE]", f"append the conversation to a data file ({DEFAULT_FILE})", ChatCommands.save),
}


def _opened(flags: Flags, project: ProjectFolder) -> Session:
    """Open the model that `flags` name; with its first adapter, if it has several and the flags name none."""
    from phi_runtime.pipeline.session import NO_ADAPTER

    if flags.adapter is not None:
        return flags.open_session(project)
    session = replace(flags, adapter=NO_ADAPTER).open_session(project)
    several = session.generator.guides and len(session.generator.adapters) > 1
    return session.select_adapter(session.generator.adapters[0] if several else None)


def _listed(names: Sequence[str], current: str) -> str:
    return ", ".join(f"{name} (current)" if name == current else name for name in names)


def _append(path: Path, rows: list[dict[str, Any]]) -> bool:
    """Append rows to a JSON Lines file, and return True if it existed.

    Raises:
        UsageError: The file cannot be written, or has another suffix.
        Conflict: The file has rows of another kind.
    """
    if path.suffix.lower() != ".jsonl":
        raise UsageError(f"{path} is not a .jsonl file", fix="end its name with .jsonl")
    try:
        first, last = _ends(path) if path.exists() else (b"", b"")
        if first:
            _check_columns(path, first, rows[0])
        gap = "" if last in (b"", b"\n") else "\n"
        with path.open("a", encoding="utf-8", newline="\n") as file:
            file.write(gap + "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    except OSError as e:
        raise UsageError(f"cannot write {path}: {e.strerror}", fix="choose another file") from None
    return bool(last)


def _ends(path: Path) -> tuple[bytes, bytes]:
    """Return the first line of a file that is not blank, and the last byte; b"" for those that it does not have."""
    with path.open("rb") as file:
        first = next((line for line in file if line.strip()), b"")
        file.seek(max(file.seek(0, os.SEEK_END) - 1, 0))
        return first, file.read(1)


def _check_columns(path: Path, line: bytes, row: dict[str, Any]) -> None:
    try:
        first = json.loads(line)
    except ValueError:
        first = None
    if not isinstance(first, dict) or not row.keys() <= first.keys():
        raise Conflict(f"the rows of {path} have other columns than {', '.join(row)}", fix="/save to another file")
