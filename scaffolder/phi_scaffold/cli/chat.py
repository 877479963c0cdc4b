"""The command `phi-scaffold chat`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from phi_scaffold.cli.options import MODEL, SAMPLING, Flags, accepts

if TYPE_CHECKING:
    from phi_runtime.core.project import ProjectFolder
    from phi_runtime.pipeline.session import Session


@accepts(*SAMPLING, *MODEL)
def chat(flags: Flags) -> None:
    """Chat with a model of the project, in the format that it was trained on.

    /help lists the commands; Ctrl-C stops an answer, Ctrl-D ends the chat. When the context is full, the oldest turns are
    dropped. Without a terminal, each line of the input is a message.

    Example: phi-scaffold chat --model merged
    """
    project = flags.enter_project()
    from phi_runtime.pipeline.conversation import Conversation
    from phi_scaffold.chat.commands import ChatCommands
    from phi_scaffold.chat.loop import Loop
    from phi_scaffold.show.terminal import console, prose

    conversation = Conversation(flags.open_session(project), flags.sampling())
    loop = Loop(conversation, ChatCommands(conversation, project, flags), as_json=flags.as_json, quiet=flags.quiet)
    if not (flags.quiet or flags.as_json):
        prose(f"{model_label(conversation.session, project)}. /help lists the commands.", console(stderr=True))
    loop.run()
    raise typer.Exit(loop.exit_code)


def model_label(session: Session, project: ProjectFolder) -> str:
    """Return the name of the model that answers, its folder and its adapter."""
    with_adapter = f" with adapter {session.adapter}" if session.adapter else ""
    return f"{session.name} ({project.shown(session.path)}){with_adapter}"
