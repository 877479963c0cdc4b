"""The command `phi-scaffold chat`."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

from phi_runtime.core.errors import PhiError
from phi_scaffold.cli.options import MODEL, SAMPLING, Flags, accepts

if TYPE_CHECKING:
    from phi_runtime.core.project import ProjectFolder
    from phi_runtime.pipeline.session import Session


@accepts(*SAMPLING, *MODEL)
def chat(flags: Flags) -> None:
    """Chat with a model of the project, in the format that it was trained on.

    An empty line ends the chat, Ctrl-C the current answer.

    Example: phi-scaffold chat --model merged
    """
    project = flags.enter_project()
    session, sampling = flags.open_session(project), flags.sampling()
    if not (flags.quiet or flags.as_json):
        print(f"{model_label(session, project)}. An empty line ends the chat.", file=sys.stderr)
    label = "you" if session.converses else ", ".join(session.template.inputs) or "text"
    interactive = sys.stdin.isatty()
    history: list[dict[str, str]] = []
    while line := _read_line(f"{label}: " if interactive else ""):
        try:
            answer = session.answer(line, sampling, history)
        except PhiError as e:
            if not interactive:
                raise
            print(f"error: {e}\n  {e.fix}", file=sys.stderr)
            continue
        text = ""
        try:
            for piece in answer:
                text += piece.text
                if not flags.as_json:
                    print(piece.text, end="", flush=True)
        except KeyboardInterrupt:
            answer.close()
            if not interactive:
                raise
        end = (
            json.dumps({"answer": text, "finish_reason": answer.finish, **vars(answer.usage)}) if flags.as_json else ""
        )
        print(end, flush=True)
        history += [{"role": "user", "content": line}, {"role": "assistant", "content": text.strip()}]


def model_label(session: Session, project: ProjectFolder) -> str:
    """Return the name of the model that answers, its folder and its adapter."""
    with_adapter = f" with adapter {session.adapter}" if session.adapter else ""
    return f"{session.name} ({project.shown(session.path)}){with_adapter}"


def _read_line(label: str) -> str:
    try:
        return input(label).strip()
    except EOFError:
        return ""
