"""The command `phi-scaffold serve`."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from phi_runtime.core.errors import MissingDependency, UsageError
from phi_runtime.core.events import Event
from phi_runtime.core.project import setup_command
from phi_scaffold.cli.options import MODEL, Flags, accepts


@accepts(*MODEL)
def serve(
    flags: Flags,
    model: Annotated[
        list[str] | None,
        typer.Option(
            help="base, adapter, merged, onnx, or the name of a pass; repeatable; default: the last output of the workflow."
        ),
    ] = None,
    adapter: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=FOLDER", help="Add an adapter to each model, served as MODEL:NAME; repeatable."),
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on; one that other machines can reach needs an API key.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 picks a free one.")] = 8080,
    api_key: Annotated[
        str | None,
        typer.Option(
            metavar="KEY",
            help="Key that clients must send; prefer PHI_SCAFFOLD_API_KEY (environment or .env), which `ps` does not show.",
        ),
    ] = None,
    cors_origin: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ORIGIN", help="Web page whose scripts may call the server, e.g. https://example.org; repeatable."
        ),
    ] = None,
    parallel: Annotated[int, typer.Option(min=1, max=64, help="Answers generated in turn.")] = 4,
    max_queue: Annotated[int, typer.Option(min=0, help="Requests that may wait; more get 429.")] = 32,
    max_tokens: Annotated[
        int, typer.Option(min=1, help="Longest answer, in tokens; also the default of a request.")
    ] = 1024,
    temperature: Annotated[
        float,
        typer.Option(min=0.0, max=2.0, help="Default temperature of a request; 0 always picks the likeliest token."),
    ] = 0.0,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds per request, including its wait.")] = 600.0,
) -> None:
    """Serve models of the project over the OpenAI API: /v1/chat/completions, /v1/completions, /v1/models. Ctrl-C stops it.

    Example: phi-scaffold serve --model onnx --port 8080
    """
    project = flags.enter_project()
    try:
        from phi_runtime.serving.server import ServerSettings
        from phi_runtime.serving.server import serve as run_server
    except ModuleNotFoundError as e:
        if e.name not in ("fastapi", "uvicorn", "starlette"):
            raise
        raise MissingDependency(
            f"the server needs `{e.name}`, which is not installed",
            fix=f"run `{setup_command('serve')}` in {project.root}",
        ) from None
    from phi_runtime.serving.app import ServingLimits
    from phi_runtime.serving.engine import KEY
    from phi_runtime.serving.wire import LoadRequest

    load = LoadRequest(
        project,
        flags.overrides(),
        list(model) if model else [None],
        dict(map(_named_folder, adapter or ())),
        parallel,
    )
    settings = ServerSettings(
        load,
        host,
        port,
        api_key or os.environ.get(KEY) or None,
        tuple(cors_origin or ()),
        ServingLimits(max_tokens, temperature, max_queue, timeout),
    )

    def log(event: Event) -> None:
        if event.event == "warning":
            print(f"warning: {event.data['message']}", file=sys.stderr)
        elif not flags.quiet:
            print(_request_line(event.data), file=sys.stderr)

    def ready(url: str, models: list[str]) -> None:
        facts = {"url": url, "models": models}
        print(json.dumps(facts) if flags.as_json else f"{url} serves {', '.join(models)}", flush=True)

    def loading() -> None:
        if not flags.quiet:
            print("loading …; Ctrl-C stops the server", file=sys.stderr)

    run_server(settings, log, ready, loading)


def _named_folder(value: str) -> tuple[str, Path]:
    name, _, path = value.partition("=")
    if not (name and path):
        raise UsageError(
            f"`--adapter {value}` is not NAME=FOLDER", fix="write, for example, --adapter style=gen-model/adapter-style"
        )
    return name, Path(path).absolute()


def _request_line(facts: dict[str, Any]) -> str:
    """Format the log line of a finished request."""
    tokens = f"{facts['prompt_tokens']} tokens ({facts['cached_tokens']} cached) → {facts['completion_tokens']}"
    return f"{facts['status']}  {facts['model']}  {tokens}  {facts['wall_s']:.2f} s"
