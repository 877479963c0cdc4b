"""Parse a command line of Olive."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from phi_runtime.core.errors import UsageError
from phi_runtime.core.suggestions import did_you_mean
from phi_scaffold.olive.flags import BECOMES, COMMANDS, OTHER_COMMANDS, SHORT, SYNONYMS, Flag

_TRAINING = "passes.finetune.training_args."
_NUMBER = re.compile(r"-\d*\.?\d+")


@dataclass
class OliveArguments:
    """A command line of Olive.

    Attributes:
        values: Values by the key of their flag.
        written: Flags as they were written, by key.
        notes: Ignored flags and their reasons.
    """

    command: str
    values: dict[str, Any] = field(default_factory=dict)
    written: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def pop(self, key: str, default: Any = None) -> Any:
        return self.values.pop(key, default)


def parse(words: Sequence[str]) -> OliveArguments:
    """Parse the words after `olive`.

    Raises:
        UsageError: The command or a flag is unknown, or a value is missing.
    """
    command, *rest = words or ("",)
    if command in OTHER_COMMANDS:
        raise UsageError(f"`olive {command}` has no counterpart", fix=OTHER_COMMANDS[command])
    if command not in COMMANDS:
        raise UsageError(
            f"Olive has no command `{command}`{did_you_mean(command, COMMANDS)}",
            fix=f"use one of {', '.join(COMMANDS)}",
        )
    arguments = OliveArguments(command)
    position = 0
    while position < len(rest):
        word = rest[position]
        position += 1
        if not word.startswith("-"):
            raise UsageError(f"`{word}` belongs to no flag", fix="quote a value that contains blanks")
        written, equals, inline = word.partition("=")
        end = position
        while end < len(rest) and not _is_flag(rest[end]):
            end += 1
        flag = _find(command, written)
        following = (
            [inline] if equals else list(rest[position : end if flag.kind == "list" else min(end, position + 1)])
        )
        position += 0 if equals else len(following)
        _add(arguments, flag, written, following)
    return arguments


def describe(command: str) -> dict[str, str]:
    """Return the flags of a command, each with the key of the config that it becomes, or with its meaning."""
    lines = {f"--{name}": _meaning(flag) for name, flag in COMMANDS[command].items()}
    for short, name in SHORT.items():
        if (meaning := lines.pop(f"--{name}", None)) is not None:
            lines = {f"-{short}, --{name}": meaning, **lines}
    if command == "finetune":
        lines["--ARGUMENT"] = f"{_TRAINING}ARGUMENT, any training argument of transformers"
    return lines


def _meaning(flag: Flag) -> str:
    if not flag.key:
        return f"ignored: {flag.reason}" if flag.reason else "ignored: changes nothing"
    return BECOMES.get(flag.key, flag.key)


def _is_flag(word: str) -> bool:
    return word.startswith("-") and not _NUMBER.match(word)


def _find(command: str, written: str) -> Flag:
    name = written.lstrip("-").replace("-", "_")
    name = SHORT.get(name, name) if not written.startswith("--") else SYNONYMS.get(name, name)
    known = COMMANDS[command]
    if name in known:
        return known[name]
    if command == "finetune" and written.startswith("--"):
        return Flag(_TRAINING + name)  # Olive hands other flags to transformers; the schema checks their names
    raise UsageError(
        f"`olive {command}` has no flag `{written}`{did_you_mean(written, [f'--{n}' for n in known])}",
        fix=f"use one of {', '.join(f'--{n}' for n, f in known.items() if f.key)}",
    )


def _add(arguments: OliveArguments, flag: Flag, written: str, following: list[str]) -> None:
    optional = flag.kind == "switch" or flag.key.startswith(_TRAINING)
    if not following and not optional:
        raise UsageError(f"`{written}` needs a value", fix=f"write `{written} VALUE`")
    if not flag.key:
        if flag.reason:
            arguments.notes.append(f"`{written}` ignored: {flag.reason}")
        return
    value: Any = True
    if flag.kind == "list":
        value = [part for word in following for part in word.split(",") if part]
    elif following:
        value = following[0].replace("\\n", "\n") if flag.kind == "text" else typed(following[0])
    arguments.values[flag.key] = value
    arguments.written[flag.key] = " ".join([written, *following])


def typed(text: str) -> Any:
    """Return the value of a flag: JSON, a boolean in any case, or the text."""
    if text.casefold() in ("true", "false"):
        return text.casefold() == "true"
    try:
        return json.loads(text)
    except ValueError:
        return text
