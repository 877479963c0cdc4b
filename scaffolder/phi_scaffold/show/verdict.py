"""Output of a verdict: the sentence with its light, the findings with the setting to change, and the next commands."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rich.markup import escape

from phi_scaffold.show.terminal import console

if TYPE_CHECKING:
    from phi_runtime.report.verdict import Verdict
    from phi_runtime.training.diagnosis import Diagnosis

_STYLES = {"ready": "bold green", "check": "bold yellow", "not ready": "bold red"}


def verdicts(judged: Mapping[str, Verdict], flags: str = "") -> None:
    """Print the verdict on each training, by its name; `flags` name the project in the next commands."""
    from phi_runtime.report.text import inert
    from phi_runtime.report.verdict import SHOWN

    out = console()
    for name, verdict in judged.items():
        lead, colon, result = inert(verdict.sentence).partition(":")
        of_training = f"{escape(name)}: " if len(judged) > 1 else ""
        out.print(f"\n{of_training}[{_STYLES[verdict.light]}]{escape(lead)}[/]{colon}{escape(result)}", soft_wrap=True)
        for finding in verdict.findings[:SHOWN]:
            _finding(finding)
        if verdict.commands:
            next_commands(verdict.commands[:SHOWN], flags)


def next_commands(commands: Sequence[str], flags: str) -> None:
    """Print commands that can be copied: with the `flags` that named the project."""
    shown = ", ".join(f"{command} {flags}".rstrip() for command in commands)
    console().print(f"next: {shown}", markup=False, soft_wrap=True)


def _finding(finding: Diagnosis) -> None:
    from phi_runtime.report.text import inert

    out = console()
    width = out.width if out.is_terminal else sys.maxsize
    mark = "!" if finding.light == "ready" else f"[{_STYLES[finding.light]}]![/]"
    out.print(f"{mark} {escape(finding.problem)}", soft_wrap=True)
    texts = (
        finding.evidence,
        f"try {finding.advice}" if finding.setting else finding.advice,
        " in ".join(filter(None, (finding.setting, finding.file))),
    )
    for text in filter(None, texts):
        lines = textwrap.fill(  # a key that is cut cannot be copied
            inert(text),  # labels and places come from data
            width,
            initial_indent="    ",
            subsequent_indent="    ",
            break_long_words=False,
            break_on_hyphens=False,
        )
        out.print(lines, markup=False, soft_wrap=True)
