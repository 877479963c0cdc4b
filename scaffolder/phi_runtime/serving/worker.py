"""The process that holds the models: `python -m phi_runtime.serving.worker`, started by `engine`. See `wire` for what is said."""

from __future__ import annotations

import hashlib
import json
import queue
import signal
import sys
import threading
from dataclasses import asdict
from pathlib import Path
from typing import Any

from phi_runtime.config.overrides import Overrides
from phi_runtime.core.errors import UsageError
from phi_runtime.core.project import Project
from phi_runtime.data.chat_template import ChatTemplate
from phi_runtime.inference.generator import SamplingParams
from phi_runtime.pipeline.session import NO_ADAPTER, Session, open_session, select_adapter
from phi_runtime.serving.scheduler import Scheduler
from phi_runtime.serving.wire import Ask, Load, ServedModel, failure
from phi_runtime.workers.json_lines import own_stdout

Messages = queue.SimpleQueue[dict[str, Any] | None]


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the server, which then ends this process
    tell = own_stdout()
    load = Load(**json.loads(sys.stdin.buffer.readline()))
    messages: Messages = queue.SimpleQueue()
    threading.Thread(target=_read, args=(messages,), daemon=True).start()
    try:
        sessions = _open(load)
    except Exception as e:
        tell({"failed": failure(e)})
        return
    tell({"ready": [asdict(each) for session in sessions.values() for each in _described(session)]})
    generators = {name: session.generator for name, session in sessions.items()}
    scheduler = Scheduler(generators, lambda ask: prompt_of(sessions[ask.model], ask), tell, load.parallel)
    _work(scheduler, messages)


def _read(messages: Messages) -> None:
    for line in sys.stdin.buffer:
        messages.put(json.loads(line))
    messages.put(None)


def _work(scheduler: Scheduler, messages: Messages) -> None:
    while True:
        while not scheduler.busy or not messages.empty():
            message = messages.get()
            if message is None:
                return
            scheduler.hear(message)
        scheduler.turn()


def _open(load: Load) -> dict[str, Session]:
    project, overrides = Project.from_dict(load.project), Overrides.from_dict(load.overrides)
    adapters = {name: Path(folder) for name, folder in load.adapters.items()}
    for name, folder in adapters.items():
        if not (folder / "adapter_config.json").is_file():
            raise UsageError(f"{folder} ({name}) holds no adapter", fix="name a folder with an adapter_config.json")
    sessions: dict[str, Session] = {}
    for wanted in load.models:
        session = open_session(project, wanted, overrides, conversations=load.parallel, adapters=adapters)
        sessions[session.name] = session
        for name in adapters:  # one that does not fit is told of now, and not to whoever asks for it first
            session.generator.answer("a", SamplingParams(1), name).close()
    return sessions


def _described(session: Session) -> list[ServedModel]:
    """All that clients may ask of one model."""
    made = int(session.path.stat().st_mtime)
    found = []
    for name, adapter in _names(session).items():
        mark = hashlib.sha256(f"{session.path}:{adapter}:{made}".encode()).hexdigest()[:10]
        generator, on_it = session.generator, session.with_adapter(adapter)
        found.append(
            ServedModel(
                name,
                session.name,
                adapter,
                generator.context_length,
                generator.guides,
                on_it.converses,
                list(on_it.template.inputs),
                made,
                f"fp_{mark}",
            )
        )
    return found


def _names(session: Session) -> dict[str, str | None]:
    """What clients may ask for, and the adapter that it means: `onnx:style`, and `onnx` where it is plain what that is."""
    generator, name = session.generator, session.name
    own = generator.adapter  # the one that this model was made for
    names: dict[str, str | None] = {name: own}
    if own is None:
        try:
            names[name] = select_adapter(generator, None)
        except UsageError:  # of several adapters none comes first, and the base must not answer unasked
            del names[name]
    names |= {f"{name}:{adapter}": adapter for adapter in generator.adapters}
    if own is None and None not in names.values():
        names[f"{name}:{NO_ADAPTER}"] = None
    return names


def prompt_of(session: Session, ask: Ask) -> tuple[str, SamplingParams]:
    """The text that the model reads, and how its answer is drawn. A model that was not trained on conversations gets the last message
    of the user, in its template, as in `phi-scaffold chat`. Raises UsageError, ValueError."""
    if ask.messages is None:
        assert ask.prompt is not None
        return ask.prompt, ask.sampling
    session = session.with_adapter(ask.adapter)
    if isinstance(session.template, ChatTemplate):
        prompt = session.template.render(ask.messages, ask=True)
    else:
        prompt = session.render(_last_of_user(ask.messages))
    return prompt, session.with_stop_text(ask.sampling)


def _last_of_user(messages: list[dict[str, str]]) -> str:
    said = [message["content"] for message in messages if message["role"] == "user"]
    if not said:
        raise UsageError("no message is the user's", fix="end with a message of role user")
    return said[-1]


if __name__ == "__main__":
    main()
