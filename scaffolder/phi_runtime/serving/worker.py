"""The process that holds the models, started by `engine`; `wire` describes its messages."""

from __future__ import annotations

import hashlib
import signal

from phi_runtime.core.errors import UsageError, to_wire
from phi_runtime.core.wire import from_json, to_json
from phi_runtime.data.chat import Message
from phi_runtime.data.chat_template import ChatTemplate
from phi_runtime.data.row import RowError
from phi_runtime.inference.generator import SamplingParams
from phi_runtime.pipeline.session import NO_ADAPTER, Session, open_session, select_adapter
from phi_runtime.serving.scheduler import Scheduler
from phi_runtime.serving.tool_format import tool_format
from phi_runtime.serving.wire import MEMORY_FIX, SUBJECT, GenerationRequest, LoadRequest, ServedModel
from phi_runtime.workers.child import Parent
from phi_runtime.workers.failures import failure_from_exception


def main() -> None:
    """Load the models of the request on stdin, then answer requests until stdin closes."""
    parent = Parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the server, which then ends this process
    load = from_json(LoadRequest, parent.receive())
    try:
        sessions = _open(load)
    except Exception as e:
        parent.send({"error": to_wire(failure_from_exception(e, SUBJECT, memory_fix=MEMORY_FIX))})
        return
    parent.send({"ready": [to_json(model) for session in sessions.values() for model in _served_models(session)]})
    generators = {name: session.generator for name, session in sessions.items()}
    scheduler = Scheduler(
        generators, lambda request: prompt_of(sessions[request.model], request), parent.send, load.parallel
    )
    while True:
        while not scheduler.busy or parent.pending():
            scheduler.handle(parent.receive())
        scheduler.turn()


def _open(load: LoadRequest) -> dict[str, Session]:
    for name, folder in load.adapters.items():
        if not (folder / "adapter_config.json").is_file():
            raise UsageError(f"{folder} ({name}) holds no adapter", fix="name a folder with an adapter_config.json")
    sessions: dict[str, Session] = {}
    for model in load.models:
        session = open_session(load.project, model, load.overrides, conversations=load.parallel, adapters=load.adapters)
        sessions[session.name] = session
        for name in load.adapters:  # reports an adapter that does not fit now, and not at its first request
            session.generator.answer("a", SamplingParams(1), name).close()
    return sessions


def _served_models(session: Session) -> list[ServedModel]:
    """Return one entry for each name under which clients can request the model of `session`."""
    created = int(session.path.stat().st_mtime)
    generator = session.generator
    models = []
    for name, adapter in _names(session).items():
        mark = hashlib.sha256(f"{session.path}:{adapter}:{created}".encode()).hexdigest()[:10]
        adapted = session.with_adapter(adapter)
        tools = tool_format(adapted.template) if isinstance(adapted.template, ChatTemplate) else None
        models.append(
            ServedModel(
                name,
                session.name,
                adapter,
                session.path,
                generator.context_length,
                generator.guides,
                adapted.converses,
                list(adapted.template.inputs),
                tools,
                created,
                f"fp_{mark}",
            )
        )
    return models


def _names(session: Session) -> dict[str, str | None]:
    """Return the names that clients can request with their adapters: `onnx:style`, and `onnx` where its meaning is clear."""
    generator, name = session.generator, session.name
    own = generator.adapter  # the adapter that this model was exported for
    names: dict[str, str | None] = {name: own}
    if own is None:
        try:
            names[name] = select_adapter(generator, None)
        except UsageError:  # several adapters and no default: the base model answers only on request
            del names[name]
    names |= {f"{name}:{adapter}": adapter for adapter in generator.adapters}
    if own is None and None not in names.values():
        names[f"{name}:{NO_ADAPTER}"] = None
    return names


def prompt_of(session: Session, request: GenerationRequest) -> tuple[str, SamplingParams]:
    """Return the prompt of `request` and its sampling.

    A model that was not trained on conversations gets the last user message in its prompt template, as in `phi-scaffold chat`.

    Raises:
        UsageError: No message has the role user, or the template refuses the messages.
    """
    if request.messages is None:
        assert request.prompt is not None
        return request.prompt, request.sampling
    session = session.with_adapter(request.adapter)
    try:
        if isinstance(session.template, ChatTemplate):
            prompt = session.template.render(request.messages, request.tools, add_generation_prompt=True)
        else:
            prompt = session.render(_last_user_message(request.messages))
    except RowError as e:
        raise UsageError(str(e)) from None
    return prompt, session.with_stop_text(request.sampling)


def _last_user_message(messages: list[Message]) -> str:
    contents = [str(message["content"]) for message in messages if message["role"] == "user"]
    if not contents:
        raise UsageError("no message has the role `user`", fix="end with a message of role user")
    return contents[-1]


if __name__ == "__main__":
    main()
