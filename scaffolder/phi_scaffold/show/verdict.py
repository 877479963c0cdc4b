"""Output of a verdict: the sentence with its light, the findings with the setting to change, and the next commands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from phi_scaffold.show.terminal import console, prose

if TYPE_CHECKING:
    from phi_runtime.report.verdict import Verdict
    from phi_runtime.training.diagnosis import Diagnosis

_STYLES = {"ready": "bold green", "check": "bold yellow", "not ready": "bold red"}


def verdicts(judged: Mapping[str, Verdict], flags: str = "") -> None:
    """Print the verdict on each training, by its name; `flags` name the project in the next commands."""
    from rich.text import Text

    from phi_runtime.report.text import inert
    from phi_runtime.report.verdict import SHOWN

    for name, verdict in judged.items():
        lead, colon, result = inert(verdict.sentence).partition(":")
        of_training = f"\n{name}: " if len(judged) > 1 else "\n"
        prose(Text.assemble(of_training, (lead, _STYLES[verdict.light]), colon, result))
        for finding in verdict.findings[:SHOWN]:
            _finding(finding)
        if verdict.commands:
            next_commands(verdict.commands[:SHOWN], flags)


def next_commands(commands: Sequence[str], flags: str) -> None:
    """Print commands that can be copied: with the `flags` that named the project."""
    out = console()
    lines = [f"{command} {flags}".rstrip() for command in commands]
    shown = f"next: {', '.join(lines)}"
    if out.is_terminal and len(shown) > out.width:
        shown = "next: " + "\n      ".join(lines)
    out.print(shown, markup=False, soft_wrap=True)


def _finding(finding: Diagnosis) -> None:
    from rich.text import Text

    from phi_runtime.report.text import inert

    style = "" if finding.light == "ready" else _STYLES[finding.light]
    prose(Text.assemble(("!", style), f" {inert(finding.problem)}"), hanging=2)
    texts = (
        finding.evidence,
        f"try {finding.advice}" if finding.setting else finding.advice,
        " in ".join(filter(None, (finding.setting, finding.file))),
    )
    for text in filter(None, texts):
        prose(f"    {inert(text)}")  # labels and places come from data
